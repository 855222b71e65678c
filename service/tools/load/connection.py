"""One keep-alive HTTP/1.1 client connection with one request in flight at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

BROKEN = 0  # status of a request whose connection ended before the whole answer had arrived

OnAnswer = Callable[["ClientConnection", int], None]


class ClientConnection(asyncio.Protocol):
    """The client's side of a connection.

    Attributes:
        body: Body of the last answer.
        due: When the request in flight should have been sent, in seconds of the caller's clock.
        sent: When it was sent.
        timed_out: Whether the caller gave it up.
    """

    def __init__(self) -> None:
        self.body = b""
        self.due = self.sent = 0.0
        self.timed_out = False
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._on_answer: OnAnswer | None = None
        self._parts: list[bytes] = []

    @property
    def is_open(self) -> bool:
        """Whether another request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, request: bytes, on_answer: OnAnswer) -> None:
        """Send a request.

        Args:
            request: Head and body.
            on_answer: Called once, with this connection and the status of the answer or `BROKEN`.
        """
        assert self._on_answer is None, "a request is in flight already"
        self._on_answer = on_answer
        self._parts.clear()
        if self._transport is None or self._transport.is_closing():
            self._finish(BROKEN)
        else:
            self._transport.write(request)

    async def request(self, request: bytes) -> int:
        """Send a request and return the status of its answer, or `BROKEN`."""
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def on_answer(_: ClientConnection, status: int) -> None:
            if not answer.done():
                answer.set_result(status)

        self.send(request, on_answer)
        return await answer

    def close(self) -> None:
        """Close the connection at once; a request in flight ends as `BROKEN`."""
        if self._transport is not None:
            self._transport.abort()
        self._finish(BROKEN)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, which calls the methods below."""
        if self._on_answer is None:
            self.close()  # an answer without a request
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """End a request in flight as `BROKEN`."""
        self._transport = None
        self._finish(BROKEN)

    def on_body(self, body: bytes) -> None:
        """Store a part of the body."""
        self._parts.append(body)

    def on_message_complete(self) -> None:
        """Finish the request, unless this was an interim answer such as 100 Continue."""
        status = self._parser.get_status_code()
        if status < 200:
            return
        if not self._parser.should_keep_alive() and self._transport is not None:
            self._transport.close()
        self.body = b"".join(self._parts)
        self._finish(status)

    def _finish(self, status: int) -> None:
        on_answer, self._on_answer = self._on_answer, None
        if on_answer is not None:
            on_answer(self, status)
