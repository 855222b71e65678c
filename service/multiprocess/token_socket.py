"""Socket for tokens: small messages of fixed size that say where a message lies in the shared memory.

One end is in a worker, the other in the engine. All tokens that arrive together are handled together, so
that a batch of results wakes the worker's event loop once.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import NamedTuple

_READ_BYTES = 2**16


class Kind(IntEnum):
    """Meaning of a token."""

    SUBMIT = 1  # worker → engine: the request's inputs are at `position`
    CANCEL = 2  # worker → engine: nobody waits for the request any more
    DONE = 3  # engine → worker: the request's outputs, or its error, end at `position`
    STATE = 4  # engine → worker: the engine's state ends at `position`


class Token(NamedTuple):
    """One token.

    Attributes:
        kind: A `Kind`.
        request: The worker's number of the request; 0 if the token is not about a request.
        position: Offset in the input memory, or position of the end in the output ring.
        size: Bytes of the message there.
    """

    kind: int
    request: int = 0
    position: int = 0
    size: int = 0


class ConnectionDescriptors(NamedTuple):
    """File descriptors of one end of a connection between a worker and the engine."""

    socket: int
    inputs: int
    outputs: int


_FORMAT = struct.Struct("<IIQQ")


class TokenSocket:
    """One end of the socket. Create and close it on the event loop; `send` may be called from any thread.

    Args:
        descriptor: The socket's file descriptor, closed together with this object.
        on_tokens: Called on the event loop with all tokens that have arrived.
        on_disconnect: Called once, on the event loop, when the other side is gone.
    """

    def __init__(
        self, descriptor: int, on_tokens: Callable[[Sequence[Token]], None], on_disconnect: Callable[[], None]
    ) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(False)
        self._on_tokens = on_tokens
        self._on_disconnect = on_disconnect
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._unsent = bytearray()
        self._received = b""
        self._loop.add_reader(self._socket, self._read)

    def send(self, tokens: Sequence[Token]) -> None:
        """Send tokens in order, without blocking; what the socket does not take is sent later."""
        data = b"".join(_FORMAT.pack(*token) for token in tokens)
        with self._lock:
            if self._unsent:
                self._unsent += data
                return
            sent = self._try_to_send(data)
            if sent < len(data):
                self._unsent += data[sent:]
                self._loop.call_soon_threadsafe(self._wait_for_room)

    def close(self) -> None:
        """Close the socket, without calling `on_disconnect`."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()
            # Break the reference cycle, so that the owner's memory is freed without the garbage collector.
            self._on_tokens, self._on_disconnect = _ignore, _ignore

    def _try_to_send(self, data: bytes | bytearray) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:  # the other side is gone; `_read` notices it
            return len(data)

    def _wait_for_room(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.add_writer(self._socket, self._send_rest)

    def _send_rest(self) -> None:
        with self._lock:
            del self._unsent[: self._try_to_send(self._unsent)]
            if not self._unsent:
                self._loop.remove_writer(self._socket)

    def _read(self) -> None:
        data = b""
        with contextlib.suppress(ConnectionError):
            data = self._socket.recv(_READ_BYTES)
        if not data:
            on_disconnect = self._on_disconnect
            self.close()
            on_disconnect()
            return
        data = self._received + data
        complete = len(data) - len(data) % _FORMAT.size
        self._received = data[complete:]
        self._on_tokens([Token(*fields) for fields in _FORMAT.iter_unpack(data[:complete])])


def _ignore(*_: object) -> None:
    pass
