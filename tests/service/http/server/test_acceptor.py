"""Connections are accepted in batches, and an error of the system is outlived."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from service.http.server.acceptor import Acceptor


class Accepted(asyncio.Protocol):
    """Keeps its connections."""

    def __init__(self, connections: list[asyncio.BaseTransport]) -> None:
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connections.append(transport)


class Listening:
    """A listener with clients that have connected, and the acceptor of their connections."""

    def __init__(self, clients: int) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.clients = [socket.create_connection(self.listener.getsockname()) for _ in range(clients)]
        self.accepted: list[asyncio.BaseTransport] = []
        self.acceptor = Acceptor(self.listener, lambda: Accepted(self.accepted))

    def close(self) -> None:
        self.acceptor.close()
        for transport in self.accepted:
            transport.close()
        for client in self.clients:
            client.close()


@contextmanager
def listening_to_200() -> Iterator[Listening]:
    listening = Listening(clients=200)
    yield listening
    listening.close()


async def test_one_turn_of_the_loop_accepts_a_batch_and_no_more() -> None:
    with listening_to_200() as listening:
        listening.acceptor.on_readable()
        assert len(listening.acceptor._starting) == 128
        listening.acceptor.on_readable()
        assert len(listening.acceptor._starting) == 200


async def test_all_who_connected_are_accepted() -> None:
    with listening_to_200() as listening:
        while len(listening.accepted) < 200:
            await asyncio.sleep(0.001)


async def test_who_has_connected_is_accepted_before_the_listener_is_closed() -> None:
    with listening_to_200() as listening:
        listening.acceptor.close()
        listening.acceptor.close()
        while len(listening.accepted) < 200:
            await asyncio.sleep(0.001)
        with pytest.raises(OSError, match="Bad file descriptor"):
            listening.listener.getsockname()


async def test_too_many_open_files_pause_the_acceptor(caplog: pytest.LogCaptureFixture) -> None:
    with listening_to_200() as listening:
        listener = listening.listener

        class Exhausted:
            def fileno(self) -> int:
                return listener.fileno()

            def accept(self) -> tuple[socket.socket, object]:
                listening.acceptor._listener = listener
                raise OSError(24, "Too many open files")

        listening.acceptor._listener = Exhausted()  # type: ignore[assignment]
        listening.acceptor.on_readable()
        assert len(listening.acceptor._starting) == 0
        assert "no connection can be accepted" in caplog.text
        while len(listening.accepted) < 200:
            await asyncio.sleep(0.01)


async def test_connections_beyond_what_is_admitted_are_closed_at_once() -> None:
    with listening_to_200() as listening:
        listening.acceptor._admit = lambda starting: len(listening.accepted) + starting < 128
        while len(listening.accepted) < 128:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        assert len(listening.accepted) == 128
        loop = asyncio.get_running_loop()
        last = listening.clients[-1]
        last.setblocking(False)
        assert await asyncio.wait_for(loop.sock_recv(last, 1), 20) == b""
