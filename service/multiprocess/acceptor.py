"""Accepting in turn: workers share one listener, and the one with the fewest connections goes first.

Left to the kernel, whichever process is awake takes every connection of a burst, and keep-alive keeps them
there while the others idle. Here a worker that has more than the least lets a moment pass for the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import mmap
import os
import socket
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from service.http.server.drain import DrainingServer

_COURTESY_SECONDS = 0.001  # how long a worker that has more connections leaves a new one to others
_PAUSE_SECONDS = 0.1  # after an error such as too many open files

_log = logging.getLogger(__name__)


class ConnectionCounts:
    """How many connections each worker has, in memory that all of them share.

    Args:
        descriptor: The memory's file: a number of 4 bytes for each worker.
        mine: Which of them this worker is.
    """

    def __init__(self, descriptor: int, mine: int) -> None:
        self._counts: NDArray[np.uint32] = np.frombuffer(mmap.mmap(descriptor, 0), np.uint32)
        self._mine = mine
        os.close(descriptor)

    def tell(self, count: int) -> None:
        """Write down how many this worker has."""
        self._counts[self._mine] = count

    def add(self) -> None:
        """Count one more of this worker's."""
        self._counts[self._mine] += 1

    def have_fewer(self) -> bool:
        """Tell whether another worker has fewer than this one."""
        return bool(self._counts.min() < self._counts[self._mine])


class Acceptor:
    """One listener. Lives on the event loop.

    Args:
        listener: Shared with other processes; does not block.
        make_protocol: Makes what speaks on a connection.
        counts: Told of every connection that is accepted here.
    """

    def __init__(
        self,
        listener: socket.socket,
        make_protocol: Callable[[], asyncio.BaseProtocol],
        counts: ConnectionCounts,
    ) -> None:
        self._listener = listener
        self._make_protocol = make_protocol
        self._counts = counts
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._beginnings: set[asyncio.Task[object]] = set()
        self._listen()

    def close(self) -> None:
        """Accept no more; may be called twice."""
        if self._timer is not None:
            self._timer.cancel()
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
            self._listener.close()

    async def wait_closed(self) -> None:
        """Nothing to wait for: connections are the server's."""

    def _listen(self) -> None:
        self._loop.add_reader(self._listener, self._on_connection)

    def _on_connection(self) -> None:
        """One or more connections can be accepted, unless another process has them by now."""
        if self._counts.have_fewer():
            self._later(_COURTESY_SECONDS)
        else:
            self._accept()

    def _later(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._timer = self._loop.call_later(seconds, self._accept_and_listen)

    def _accept_and_listen(self) -> None:
        self._listen()
        self._accept()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:
            _log.exception("no connection can be accepted")
            self._later(_PAUSE_SECONDS)
            return
        self._counts.add()
        beginning: asyncio.Task[object] = self._loop.create_task(self._begin(connection))
        self._beginnings.add(beginning)
        beginning.add_done_callback(self._beginnings.discard)

    async def _begin(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it hung up already
            await self._loop.connect_accepted_socket(self._make_protocol, connection)


class FairServer(DrainingServer):
    """A server that shares its listeners with other processes.

    Attributes:
        counts: Set before it runs.
    """

    counts: ConnectionCounts

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept."""
        await super().startup([])
        self.counts.tell(0)
        for listener in sockets or ():
            listener.setblocking(False)
            self.servers.append(Acceptor(listener, self._protocol, self.counts))  # type: ignore[arg-type]

    async def on_tick(self, counter: int) -> bool:
        """Correct the counts, ten times a second, by the connections that have ended."""
        self.counts.tell(len(self.server_state.connections))
        return await super().on_tick(counter)

    def _protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
