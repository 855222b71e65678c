"""Tokens over a socket: small fixed messages that say which message lies where in the shared memory.

One end in a worker, the other in the engine. What arrives together is handed on together, so that a batch
of results wakes the worker's event loop once.
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
    """What a token says."""

    SUBMIT = 1  # worker → engine: a pending's inputs lie at `place`
    CANCEL = 2  # worker → engine: nobody waits for the pending any more
    DONE = 3  # engine → worker: a pending's outputs, or its error, end at `place`
    STATE = 4  # engine → worker: what the engine says of models and lanes ends at `place`


class Token(NamedTuple):
    """One message.

    Attributes:
        pending: The worker's number of a request; 0 where none is meant.
        place: An offset in the arena, or the position of an end in the ring.
        size: Bytes of the message there.
    """

    kind: int
    pending: int = 0
    place: int = 0
    size: int = 0


class Ends(NamedTuple):
    """File descriptors of one connection, as a process is handed them."""

    socket: int
    inputs: int
    outputs: int


_FORM = struct.Struct("<IIQQ")


class TokenSocket:
    """One end of the socket. Made and closed on the event loop; `send` may be called from any thread.

    Args:
        descriptor: The socket; the link owns it from now on.
        on_tokens: Called on the event loop with all tokens that have arrived.
        on_lost: Called once, on the event loop, when the other side is gone.
    """

    def __init__(
        self, descriptor: int, on_tokens: Callable[[Sequence[Token]], None], on_lost: Callable[[], None]
    ) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(False)
        self._on_tokens = on_tokens
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._unsent = bytearray()
        self._received = b""
        self._loop.add_reader(self._socket, self._read)

    def send(self, tokens: Sequence[Token]) -> None:
        """Send tokens in order, now or as soon as the other side reads; never waits."""
        data = b"".join(_FORM.pack(*token) for token in tokens)
        with self._lock:
            if self._unsent:
                self._unsent += data
                return
            sent = self._try_to_send(data)
            if sent < len(data):
                self._unsent += data[sent:]
                self._loop.call_soon_threadsafe(self._wait_for_room)

    def close(self) -> None:
        """Hang up; `on_lost` is not called."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()
            # The owner's memory is free as soon as nobody uses it, without waiting for a search for circles.
            self._on_tokens, self._on_lost = _ignore, _ignore

    def _try_to_send(self, data: bytes | bytearray) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:  # the other side is gone, which the reader will tell
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
            on_lost = self._on_lost
            self.close()
            on_lost()
            return
        data = self._received + data
        whole = len(data) - len(data) % _FORM.size
        self._received = data[whole:]
        self._on_tokens([Token(*fields) for fields in _FORM.iter_unpack(data[:whole])])


def _ignore(*_: object) -> None:
    """Nobody is there any more."""
