"""The door: bounds on bodies and on work in progress, before anything is decoded."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import Request

from service.errors import BodyTimeout, ClientGone, InvalidInput, Overloaded, TooLarge, UnsupportedMedia


class Door:
    """Counts what is inside. Lives on the event loop.

    Args:
        max_body_bytes: Largest body of one request.
        max_inflight_bytes: Most bytes of bodies held at once.
        body_timeout_seconds: Longest time for a body to arrive.
    """

    def __init__(self, *, max_body_bytes: int, max_inflight_bytes: int, body_timeout_seconds: float) -> None:
        self._max_body_bytes = max_body_bytes
        self._max_inflight_bytes = max_inflight_bytes
        self._body_timeout_seconds = body_timeout_seconds
        self._held_bytes = 0
        self._inside: Counter[str] = Counter()

    @contextmanager
    def permit(self, model: str, most: int) -> Iterator[None]:
        """Hold one of a model's permits.

        Raises:
            Overloaded: `most` requests of this model are already being worked on.
        """
        if self._inside[model] >= most:
            raise Overloaded(f"model {model} has {most} requests in work already", reason="permits")
        self._inside[model] += 1
        try:
            yield
        finally:
            self._inside[model] -= 1

    @contextmanager
    def room(self, request: Request) -> Iterator[_Held]:
        """Hold room for a request's body for as long as the request needs it.

        Raises:
            TooLarge: The stated length is over the limit.
            UnsupportedMedia: The body is compressed.
            InvalidInput: The stated length is not a number.
        """
        encoding = request.headers.get("content-encoding", "").lower()
        if encoding not in ("", "identity"):
            raise UnsupportedMedia(f"content encoding {encoding} is not decoded here; send the body as it is")
        stated = request.headers.get("content-length", "0")
        if not (stated.isascii() and stated.isdecimal()):
            raise InvalidInput("Content-Length is not a number")
        self._check(int(stated))
        held = _Held(self)  # grows with what comes: a promise alone takes no room from others
        try:
            yield held
        finally:
            self._held_bytes -= held.size

    async def read(self, request: Request, held: _Held) -> bytes:
        """Read a body within the limits.

        Raises:
            TooLarge, Overloaded: It grew over a limit.
            BodyTimeout: It came too slowly.
            ClientGone: The client hung up while sending.
        """
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._body_timeout_seconds):
                while True:
                    message = await request.receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone("the client hung up while sending")
                    chunk = message.get("body", b"")
                    size += len(chunk)
                    self._check(size)
                    held.grow(size)
                    chunks.append(chunk)
                    if not message.get("more_body", False):
                        return chunks[0] if len(chunks) == 1 else b"".join(chunks)
        except TimeoutError as error:
            limit = self._body_timeout_seconds
            raise BodyTimeout(f"the body did not arrive within {limit:g} seconds") from error

    def _check(self, size: int) -> None:
        if size > self._max_body_bytes:
            raise TooLarge(f"the body is over the limit of {self._max_body_bytes} bytes")


class _Held:
    """Bytes that one request holds of the door's room."""

    def __init__(self, door: Door) -> None:
        self.size = 0
        self._door = door

    def grow(self, size: int) -> None:
        """Hold at least `size` bytes."""
        more = size - self.size
        if more <= 0:
            return
        if self._door._held_bytes + more > self._door._max_inflight_bytes:
            raise Overloaded("the server holds as many bytes of bodies as it may", reason="bytes")
        self._door._held_bytes += more
        self.size = size
