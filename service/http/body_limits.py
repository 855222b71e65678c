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

    def body(self, receive: Receive, headers: Mapping[bytes, bytes]) -> RequestBody:
        """Return a request's body, to be read within the limits.

        Args:
            receive: The request's.
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
        return RequestBody(self, receive)

    def _check(self, size: int) -> None:
        if size > self._max_body_bytes:
            raise TooLarge(
                f"the body is over the limit of {self._max_body_bytes} bytes (setting max_body_bytes)"
            )


class RequestBody:
    """The body of one request. Its bytes count as held as they come: a stated length alone takes no room."""

    __slots__ = ("_limits", "_receive", "_size")

    def __init__(self, limits: BodyLimits, receive: Receive) -> None:
        self._limits = limits
        self._receive = receive
        self._size = 0

    async def read(self, *, is_there: bool) -> bytes:
        """Read it.

        Args:
            is_there: Whether all of it has arrived, so that there is nothing to wait for.

        Raises:
            TooLarge, Overloaded: It grew over a limit.
            BodyTimeout: It came too slowly.
            ClientGone: The client hung up while sending.
        """
        if is_there:
            return await self._read()
        limit = self._limits._body_timeout_seconds
        try:
            async with asyncio.timeout(limit):
                return await self._read()
        except TimeoutError as error:
            raise BodyTimeout(f"the body did not arrive within {limit:g} seconds") from error

    def release(self, unfinished: asyncio.Future[Any] | None) -> None:
        """Hold its bytes no more.

        Args:
            unfinished: Work that still reads them; they count until it ends. None where there is none.
        """
        if unfinished is None:
            self._give_back()
        else:
            unfinished.add_done_callback(lambda _: self._give_back())

    async def _read(self) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone("the client hung up while sending")
            chunk = message.get("body", b"")
            size += len(chunk)
            self._limits._check(size)
            self._grow(size)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _grow(self, size: int) -> None:
        limits, more = self._limits, size - self._size
        if limits._held_bytes + more > limits._max_inflight_bytes:
            raise Overloaded("the server holds as many bytes of bodies as it may", reason="inflight_bytes")
        limits._held_bytes += more
        self._size = size

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
