"""Bounds on request bodies: the size of one, the bytes of all that are held, the time that one may take."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from starlette.types import Receive

from service.errors import BodyTimeout, ClientGone, InvalidInput, Overloaded, TooLarge, UnsupportedMedia


class BodyLimits:
    """Count the bytes of bodies that are held. Belongs to the event loop.

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

    def begin(self, headers: Mapping[bytes, bytes]) -> BodyHold:
        """Begin to hold a request's body. It counts as it comes: a stated length alone takes no room.

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

    async def read(self, receive: Receive, hold: BodyHold, *, is_there: bool) -> bytes:
        """Read a body within the limits.

        Args:
            receive: The request's.
            hold: Grows with it.
            is_there: Whether the whole body has come already, so that there is nothing to wait for.

        Raises:
            TooLarge, Overloaded: It grew over a limit.
            BodyTimeout: It came too slowly.
            ClientGone: The client hung up while sending.
        """
        if is_there:
            return await self._read(receive, hold)
        try:
            async with asyncio.timeout(self._body_timeout_seconds):
                return await self._read(receive, hold)
        except TimeoutError as error:
            limit = self._body_timeout_seconds
            raise BodyTimeout(f"the body did not arrive within {limit:g} seconds") from error

    async def _read(self, receive: Receive, hold: BodyHold) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone("the client hung up while sending")
            chunk = message.get("body", b"")
            size += len(chunk)
            self._check(size)
            hold.grow(size)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _check(self, size: int) -> None:
        if size > self._max_body_bytes:
            raise TooLarge(
                f"the body is over the limit of {self._max_body_bytes} bytes (setting max_body_bytes)"
            )


class BodyHold:
    """The bytes that one request holds until it releases them."""

    __slots__ = ("_is_kept", "_limits", "_size")

    def __init__(self, limits: BodyLimits) -> None:
        self._limits = limits
        self._size = 0
        self._is_kept = False

    def grow(self, size: int) -> None:
        """Hold at least `size` bytes.

        Raises:
            Overloaded: The server holds as many as it may.
        """
        limits, more = self._limits, size - self._size
        if more <= 0:
            return
        if limits._held_bytes + more > limits._max_inflight_bytes:
            raise Overloaded("the server holds as many bytes of bodies as it may", reason="inflight_bytes")
        limits._held_bytes += more
        self._size = size

    def keep_until(self, end: asyncio.Future[Any]) -> None:
        """Hold the bytes until something has ended, even when the request is answered before."""
        self._is_kept = True
        end.add_done_callback(lambda _: self._give_back())

    def release(self) -> None:
        """Give the bytes back, unless they are kept."""
        if not self._is_kept:
            self._give_back()

    def _give_back(self) -> None:
        self._limits._held_bytes -= self._size
        self._size = 0


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
