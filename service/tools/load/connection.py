"""One keep-alive connection that asks one thing at a time, as cheaply as Python can."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

BROKEN = 0  # the status of a request whose connection ended before its answer was whole

Done = Callable[["Connection", int], None]


class Connection(asyncio.Protocol):
    """A client's end of one HTTP/1.1 connection.

    Attributes:
        body: Of the last answer.
    """

    def __init__(self) -> None:
        self.body = b""
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._done: Done | None = None
        self._parts: list[bytes] = []

    @property
    def is_open(self) -> bool:
        """Whether another request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, request: bytes, done: Done) -> None:
        """Send a request.

        Args:
            request: Head and body.
            done: Called once, with this connection and the status of the answer, or `BROKEN`.
        """
        assert self._done is None, "the connection still waits for an answer"
        self._done = done
        if not self.is_open:
            self._finish(BROKEN)
            return
        self._parser = httptools.HttpResponseParser(self)
        self._parts.clear()
        cast(asyncio.Transport, self._transport).write(request)

    def close(self) -> None:
        """Hang up; what was asked and not answered is broken."""
        if self._transport is not None:
            self._transport.abort()
        self._finish(BROKEN)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way out."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, which calls the methods below."""
        if self._done is None or self._parser is None:
            self.close()  # an answer that nobody asked for
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        self._transport = None
        self._finish(BROKEN)

    def on_body(self, body: bytes) -> None:
        """Keep a part of the answer; the parser calls this."""
        self._parts.append(body)

    def on_message_complete(self) -> None:
        """Take the answer as whole; the parser calls this."""
        parser = self._parser
        assert parser is not None, "only a parser ends a message"
        status = parser.get_status_code()
        if status < 200:  # 100 Continue and the like
            return
        if not parser.should_keep_alive() and self._transport is not None:
            self._transport.close()
        self.body = b"".join(self._parts)
        self._finish(status)

    def _finish(self, status: int) -> None:
        done, self._done = self._done, None
        self._parser = None
        if done is not None:
            done(self, status)
