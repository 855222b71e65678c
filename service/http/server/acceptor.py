"""Accept connections in bounded batches, so that new ones never wait behind busy ones.

uvloop's own listener accepts one connection a turn of the event loop. On a busy loop a turn is long, and new
clients and probes would wait for seconds in the kernel's queue. Here one turn accepts up to a whole batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable

_BATCH = 128  # connections accepted in one turn of the loop; each costs some 50 µs
_PAUSE_SECONDS = 0.1  # after an error such as too many open files

_log = logging.getLogger(__name__)


class Acceptor:
    """Accept the connections of one listener. Belongs to the running event loop.

    Args:
        listener: The listening socket. It is made non-blocking.
        make_protocol: Makes the protocol of a new connection.
        admit: Called for each new connection, with the number of those that are being started. Where it
            returns False, the connection is closed at once.
    """

    def __init__(
        self,
        listener: socket.socket,
        make_protocol: Callable[[], asyncio.BaseProtocol],
        admit: Callable[[int], bool] = lambda _: True,
    ) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._make_protocol = make_protocol
        self._admit = admit
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._starting: set[asyncio.Task[None]] = set()
        self._listen()

    def close(self) -> None:
        """Accept those who have connected, then close the listener. May be called twice."""
        if self._listener.fileno() < 0:
            return
        while self.accept():  # closing the listener would reset them
            pass
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()

    async def wait_closed(self) -> None:
        """Return at once: open connections belong to the server."""

    def on_readable(self) -> None:
        """Accept a batch of the connections that wait."""
        self.accept_up_to(_BATCH)

    def accept_up_to(self, count: int) -> None:
        """Accept so many connections, or as many as there are."""
        for _ in range(count):
            if not self.accept():
                return

    def accept(self) -> bool:
        """Accept one connection.

        Returns:
            Whether there was one.
        """
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return False
        except OSError:
            _log.exception("no connection can be accepted")
            self.pause(_PAUSE_SECONDS)
            return False
        if not self._admit(len(self._starting)):
            connection.close()
            return True
        task = self._loop.create_task(self._start(connection))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)
        return True

    def pause(self, seconds: float) -> None:
        """Accept nothing for a while."""
        self._loop.remove_reader(self._listener)
        self._timer = self._loop.call_later(seconds, self.resume)

    def resume(self) -> None:
        """Accept again."""
        self._listen()

    def _listen(self) -> None:
        self._loop.add_reader(self._listener, self.on_readable)

    async def _start(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the client has hung up already
            await self._loop.connect_accepted_socket(self._make_protocol, connection)
