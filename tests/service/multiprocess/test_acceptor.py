"""Accepting in turn: each worker gets its share, and none waits for one that does not take it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from service.multiprocess.acceptor import ConnectionCounts, FairAcceptor
from tests.service.multiprocess.connection_pair import until


@contextmanager
def counts_of(workers: int) -> Iterator[list[ConnectionCounts]]:
    memory = os.memfd_create("counts")
    os.truncate(memory, 4 * workers)
    yield [ConnectionCounts(os.dup(memory), mine) for mine in range(workers)]
    os.close(memory)


class Counting(asyncio.Protocol):
    """Keeps its connections."""

    def __init__(self, connections: list[asyncio.BaseTransport]) -> None:
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connections.append(transport)


class Workers:
    """As many acceptors on one listener as there are counts."""

    def __init__(self, listener: socket.socket, all_of_them: list[ConnectionCounts], accepting: int) -> None:
        self.address = listener.getsockname()
        self.taken: list[list[asyncio.BaseTransport]] = [[] for _ in range(accepting)]
        self.acceptors = [
            FairAcceptor(listener.dup(), lambda taken=taken: Counting(taken), counts)  # type: ignore[misc]
            for taken, counts in zip(self.taken, all_of_them, strict=False)
        ]

    @property
    def counts(self) -> list[int]:
        return [len(taken) for taken in self.taken]


@asynccontextmanager
async def workers(count: int, accepting: int | None = None) -> AsyncIterator[Workers]:
    with socket.create_server(("127.0.0.1", 0)) as listener, counts_of(count) as all_of_them:
        listener.setblocking(False)
        both = Workers(listener, all_of_them, count if accepting is None else accepting)
        yield both
        for acceptor in both.acceptors:
            acceptor.close()
        for taken in both.taken:
            for transport in taken:
                transport.close()


@contextmanager
def clients(address: tuple[str, int], count: int) -> Iterator[None]:
    opened = [socket.create_connection(address) for _ in range(count)]
    yield
    for client in opened:
        client.close()


async def test_connections_are_shared_evenly() -> None:
    async with workers(3) as three:
        with clients(three.address, 30):
            await until(lambda: sum(three.counts) == 30)
            assert max(three.counts) - min(three.counts) <= 1, three.counts


async def test_who_comes_later_catches_up() -> None:
    async with workers(2, accepting=1) as one:
        with clients(one.address, 6):
            await until(lambda: one.counts == [6])
            one.acceptors[0]._counts.tell(6)
            second: list[asyncio.BaseTransport] = []
            memory = one.acceptors[0]._listener.dup()
            other = ConnectionCounts.__new__(ConnectionCounts)
            other._counts, other._mine = one.acceptors[0]._counts._counts, 1
            late = FairAcceptor(memory, lambda: Counting(second), other)
            with clients(one.address, 6):
                await until(lambda: len(second) + one.counts[0] == 12)
                assert len(second) == 6
            late.close()
            for transport in second:
                transport.close()


async def test_a_worker_that_takes_nothing_keeps_nobody_waiting() -> None:
    async with workers(2, accepting=1) as one:  # the other one's count stays at 0
        with clients(one.address, 5):
            await until(lambda: one.counts == [5])


async def test_too_many_open_files_are_outlived(monkeypatch: pytest.MonkeyPatch) -> None:
    async with workers(1) as one:
        listener = one.acceptors[0]._listener

        class Exhausted:
            def fileno(self) -> int:
                return listener.fileno()

            def close(self) -> None:
                listener.close()

            def accept(self) -> tuple[socket.socket, object]:
                monkeypatch.setattr(one.acceptors[0], "_listener", listener)
                raise OSError(24, "Too many open files")

        monkeypatch.setattr(one.acceptors[0], "_listener", Exhausted())
        with clients(one.address, 2):
            await until(lambda: one.counts == [2])
