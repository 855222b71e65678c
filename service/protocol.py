"""uvicorn's HTTP protocol with bounds on a request's head, which it does not have itself.

A head over 64 KiB is answered 431, one that comes too slowly ends its connection. An offer to upgrade is
ignored, as RFC 9110, section 7.8, allows: the parser would otherwise skip the body of such a request,
which Java's and curl's clients send when they would rather speak HTTP/2.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_LIMIT_BYTES = 2**16
_END = b"\r\n\r\n"
_UPGRADE = re.compile(rb"\r\nupgrade(?=[ \t]*:)", re.IGNORECASE)
_TOO_LARGE = (
    b'{"error":{"message":"the head of the request is over the limit of 65536 bytes",'
    b'"type":"invalid_request_error","code":"too_large","param":null,"request_id":null}}'
)
_ANSWER = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(_TOO_LARGE), _TOO_LARGE)
)


class BoundedProtocol(HttpToolsProtocol):
    """Collects each head before the parser sees it.

    Attributes:
        head_timeout_seconds: Longest time for a head to arrive, from the connection or its first byte.
    """

    head_timeout_seconds = 30.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head = bytearray()
        self._in_head = True
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Hand data on once the head that it belongs to is complete."""
        if not self._in_head:
            super().data_received(data)
            return
        self._unset_keepalive_if_required()
        if self._head_timer is None:
            self._start_timer()
        searched = max(0, len(self._head) - len(_END))
        self._head += data
        end = self._head.find(_END, searched)
        if max(end, len(self._head) if end < 0 else 0) > HEAD_LIMIT_BYTES:
            self._stop_timer()
            self.transport.write(_ANSWER)
            self.transport.close()
            return
        if end < 0:
            return
        self._stop_timer()
        whole = bytes(self._head)
        self._head.clear()
        super().data_received(_UPGRADE.sub(b"\r\nx-upgrade", whole[: end + 2]) + whole[end + 2 :])

    def on_message_begin(self) -> None:
        """The parser itself is in a head or body from here on, pipelined ones included."""
        self._in_head = False
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """What comes next is another head."""
        self._in_head = True
        super().on_message_complete()

    def _start_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.head_timeout_seconds, self.transport.close)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
