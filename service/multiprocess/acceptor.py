"""Share one listener between workers: the worker with the fewest connections accepts first.

Left to the kernel, whichever process is awake takes every connection of a burst, and keep-alive keeps them
there while the others are idle. Here a worker that has more connections than another waits a moment.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import socket
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from service.http.server.acceptor import Acceptor
from service.http.server.drain import DrainingServer

_COURTESY_SECONDS = 0.005  # how long a worker that has more connections leaves a new one to others
_MOST_AT_ONCE = 128
_NOT_TAKEN = 16  # connections taken at once when the others did not take them in that time: they are busy


class ConnectionCounts:
    """The number of connections of each worker, in memory that all of them share.

    Args:
        descriptor: The memory's file: a number of 4 bytes for each worker.
        mine: The index of this worker.
    """

    def __init__(self, descriptor: int, mine: int) -> None:
        self._counts: NDArray[np.uint32] = np.frombuffer(mmap.mmap(descriptor, 0), np.uint32)
        self._mine = mine
        os.close(descriptor)

    def tell(self, count: int) -> None:
        """Set the count of this worker."""
        self._counts[self._mine] = count

    def add(self) -> None:
        """Count one more connection of this worker."""
        self._counts[self._mine] += 1

    def have_fewer(self) -> bool:
        """Return whether another worker has fewer connections than this one."""
        return bool(self._counts.min() < self._counts[self._mine])


class FairAcceptor(Acceptor):
    """An acceptor that leaves new connections to workers that have fewer.

    Args:
        listener: Shared with the other processes.
        make_protocol: Makes the protocol of a new connection.
        counts: Updated with every connection that is accepted here.
        admit: Called for each new connection, with the number of those that are being started. Where it
            returns False, the connection is closed at once.
    """

    def __init__(
        self,
        listener: socket.socket,
        make_protocol: Callable[[], asyncio.BaseProtocol],
        counts: ConnectionCounts,
        admit: Callable[[int], bool] = lambda _: True,
    ) -> None:
        self._counts = counts
        super().__init__(listener, make_protocol, admit)

    def on_readable(self) -> None:
        """Accept connections, until another worker should have the next one."""
        if self._counts.have_fewer():
            self.pause(_COURTESY_SECONDS)
        else:
            for _ in range(_MOST_AT_ONCE):
                if not self.accept() or self._counts.have_fewer():
                    return

    def resume(self) -> None:
        """Accept what no other worker took in the meantime."""
        super().resume()
        self.accept_up_to(_NOT_TAKEN)

    def accept(self) -> bool:
        """Accept one connection and count it.

        Returns:
            Whether there was one.
        """
        accepted = super().accept()
        if accepted:
            self._counts.add()
        return accepted


class FairServer(DrainingServer):
    """A server that shares its listeners with other processes.

    Attributes:
        counts: Set before it runs.
    """

    counts: ConnectionCounts

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept."""
        self.counts.tell(0)
        await super().startup(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Correct the counts, ten times a second, by the connections that have ended."""
        self.counts.tell(len(self.server_state.connections))
        return await super().on_tick(counter)

    def make_acceptor(self, listener: socket.socket, admit: Callable[[int], bool]) -> Acceptor:
        """Return what accepts on a listener."""
        return FairAcceptor(listener, self.make_protocol, self.counts, admit)
