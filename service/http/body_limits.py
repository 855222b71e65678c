"""The door: bounds on bodies and on work in progress, before anything is decoded."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any

from starlette.types import Receive

from service.errors import BodyTimeout, ClientGone, InvalidInput, Overloaded, TooLarge, UnsupportedMedia


class BodyLimits:
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

    def enter(self, headers: Mapping[bytes, bytes]) -> BodyHold:
        """Begin a request's stay; it takes room as its body comes: a promise alone takes none from others.

        Args:
            headers: By name, in lower case.

        Raises:
            TooLarge: The stated length is over the limit.
            UnsupportedMedia: The body is compressed.
            InvalidInput: The stated length is not a number.
        """
        encoding = headers.get(b"content-encoding")
        if encoding is not None and encoding.lower() not in (b"", b"identity"):
            name = encoding.decode("latin-1")
            raise UnsupportedMedia(f"content encoding {name} is not decoded here; send the body as it is")
        self._check(stated_bytes(headers))
        return BodyHold(self)

    async def read(self, receive: Receive, stay: BodyHold, *, is_there: bool) -> bytes:
        """Read a body within the limits.

        Args:
            receive: The request's.
            stay: Grows with it.
            is_there: Whether the whole body has come already, so that there is nothing to wait for.

        Raises:
            TooLarge, Overloaded: It grew over a limit.
            BodyTimeout: It came too slowly.
            ClientGone: The client hung up while sending.
        """
        if is_there:
            return await self._read(receive, stay)
        try:
            async with asyncio.timeout(self._body_timeout_seconds):
                return await self._read(receive, stay)
        except TimeoutError as error:
            limit = self._body_timeout_seconds
            raise BodyTimeout(f"the body did not arrive within {limit:g} seconds") from error

    async def _read(self, receive: Receive, stay: BodyHold) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone("the client hung up while sending")
            chunk = message.get("body", b"")
            size += len(chunk)
            self._check(size)
            stay.grow(size)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _check(self, size: int) -> None:
        if size > self._max_body_bytes:
            raise TooLarge(
                f"the body is over the limit of {self._max_body_bytes} bytes (setting max_body_bytes)"
            )


class BodyHold:
    """What one request holds of the door until it leaves: bytes of its body, and a permit of its model."""

    __slots__ = ("_door", "_is_kept", "_model", "_size")

    def __init__(self, door: BodyLimits) -> None:
        self._door = door
        self._size = 0
        self._model: str | None = None
        self._is_kept = False

    def grow(self, size: int) -> None:
        """Hold at least `size` bytes.

        Raises:
            Overloaded: The server holds as many as it may.
        """
        door, more = self._door, size - self._size
        if more <= 0:
            return
        if door._held_bytes + more > door._max_inflight_bytes:
            raise Overloaded("the server holds as many bytes of bodies as it may", reason="bytes")
        door._held_bytes += more
        self._size = size

    def permit(self, model: str, most: int) -> None:
        """Take one of a model's permits.

        Raises:
            Overloaded: `most` requests of this model are already being worked on.
        """
        inside = self._door._inside
        if inside[model] >= most:
            raise Overloaded(f"model {model} has {most} requests in work already", reason="permits")
        inside[model] += 1
        self._model = model

    def keep_until(self, end: asyncio.Future[Any]) -> None:
        """Hold everything until something has ended, even when the request has left."""
        self._is_kept = True
        end.add_done_callback(lambda _: self._let_go())

    def leave(self) -> None:
        """Give everything back, unless it is kept."""
        if not self._is_kept:
            self._let_go()

    def _let_go(self) -> None:
        self._door._held_bytes -= self._size
        if self._model is not None:
            self._door._inside[self._model] -= 1


def stated_bytes(headers: Mapping[bytes, bytes]) -> int:
    """Read `Content-Length`.

    Returns:
        0 where none is stated.

    Raises:
        InvalidInput: It is not a number.
    """
    stated = headers.get(b"content-length", b"0")
    if not stated.isdigit():
        raise InvalidInput("Content-Length is not a number")
    return int(stated)
