"""uvicorn's HTTP protocol, with the bounds that it lacks.

- The head of a request has a limit of size (431) and of time (the connection is closed).
- An upgrade is ignored, as RFC 9110, section 7.8, allows. uvicorn's parser would skip the body of such a
  request; Java's and curl's clients send them when they prefer HTTP/2.
- The rest of a body that was answered before it arrived is read and dropped, for a limited time.
- Each request gets the earliest time at which it can have arrived, because its deadline counts from then. One
  turn of the event loop reads a bounded number of them; see `turns`.
- A request for a task that would be late is refused here, before uvicorn makes a task for it.

It overrides methods of a class that uvicorn does not document. So uvicorn's version is bounded in
`pyproject.toml`, and `tests/end_to_end/test_protocol.py` uses every one of them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.http.context import Scope, attach_context, context_of
from service.http.server.turns import LoopTurns

CheckEarly = Callable[[bytes, Iterable[tuple[bytes, bytes]], int, float], bytes]

HEAD_LIMIT_BYTES = 2**16
_BEGINNING = re.compile(rb"[A-Z]+( |$)")
_END = re.compile(rb"\r?\n\r?\n")
_UPGRADE = re.compile(rb"(\r\n)upgrade(?=[ \t]*:)", re.IGNORECASE)
_TOO_LARGE = (
    b'{"error":{"message":"the head of the request is over the limit of 65536 bytes",'
    b'"type":"invalid_request_error","code":"too_large","param":null,"request_id":null}}'
)
_OVERLOADED_BODY = (
    b'{"error":{"message":"the server is overloaded","type":"rate_limit_error","code":"overloaded",'
    b'"param":null,"request_id":null}}'
)
_OVERLOADED = (
    b"HTTP/1.1 429 Too Many Requests\r\nconnection: close\r\nretry-after: 1\r\nretry-after-ms: 1000\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
    % (len(_OVERLOADED_BODY), _OVERLOADED_BODY)
)
_ANSWER = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(_TOO_LARGE), _TOO_LARGE)
)


class BoundedProtocol(HttpToolsProtocol):
    """The protocol of one connection. It collects each head before the parser sees it.

    Attributes:
        head_timeout_seconds: Longest time for a head to arrive, from the connection or its first byte; and
            for the rest of a body that was answered already.
        turns: Of the event loop, shared by all its connections.
        count_unread: Called for each request that is refused without having been read.
        check_early: `EarlyRefusal.check` of the application.
    """

    head_timeout_seconds = 30.0
    turns: LoopTurns
    count_unread: Callable[[], None]
    check_early: CheckEarly

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head = bytearray()
        self._collecting = True
        self._pipelined_bytes = 0
        self._parser_in_head = False
        self._body_bytes = -1
        self._received = 0.0
        self._waits_for_turn = False
        self._refusal = b""
        self._head_timer: asyncio.TimerHandle | None = None
        self._rest_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time limit for the first head."""
        super().connection_made(transport)
        self.turns.received()
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all time limits."""
        self._stop_timer()
        self._stop_rest_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass data to the parser once the head that it belongs to is complete."""
        is_new = self._collecting and not self._head and (self.cycle is None or self.cycle.response_complete)
        if is_new and not self.turns.take(self, data):
            self._unset_keepalive_if_required()
            self.flow.pause_reading()
            self._waits_for_turn = True
            return
        self._received = self.turns.received()
        self._read(data)

    def take(self, data: bytes, received: float) -> None:
        """Go on with data that waited for its turn."""
        self._waits_for_turn = False
        if not self.transport.is_closing():
            self.flow.resume_reading()
            self._received = received
            self._read(data)

    def turn_away(self) -> None:
        """Refuse data that has waited too long, and close the connection."""
        self._waits_for_turn = False
        if not self.transport.is_closing():
            self.count_unread()
            self.transport.write(_OVERLOADED)
            self.transport.close()

    def shutdown(self) -> None:
        """Close the connection, but only after a request that waits for its turn."""
        if self._waits_for_turn and not self.transport.is_closing():
            self.loop.call_soon(self.shutdown)
        else:
            super().shutdown()

    def _read(self, data: bytes) -> None:
        if not self._collecting:
            self._body_bytes = -1
            self._parse(data)
            return
        self._unset_keepalive_if_required()
        self._start_timer()
        self._head += data if self._head else data.lstrip(b"\r\n")
        end = _END.search(self._head)
        if (end.start() if end else len(self._head)) > HEAD_LIMIT_BYTES:
            self._refuse()
        elif end or (self._head and not _BEGINNING.match(self._head)):  # the parser knows how to refuse
            cut = end.start() if end else 0
            whole = bytes(self._head)
            self._head.clear()
            self._body_bytes = len(whole) - end.end() if end else -1
            if _UPGRADE.search(whole, 0, cut):
                whole = _UPGRADE.sub(rb"\1x-upgrade", whole[:cut]) + whole[cut:]
            self._parse(whole)

    def on_message_begin(self) -> None:
        """Note that the parser is in a head: only the parser can tell pipelined heads from bodies."""
        self._collecting = False
        self._parser_in_head = True
        self._pipelined_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Refuse the request early, or let uvicorn make a task for it."""
        self._parser_in_head = False
        self._refusal = self._check_early()
        if not self._refusal:
            super().on_headers_complete()
            attach_context(cast(Scope, self.scope))

    def on_body(self, body: bytes) -> None:
        """Drop the body of a request that is refused."""
        if not self._refusal:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Write an early refusal, or note when the request was complete. Another head comes next."""
        self._collecting = True
        if self._refusal:
            line, _, rest = self._refusal.partition(b"\r\n")
            headers = b"".join(b"%b: %b\r\n" % header for header in self.server_state.default_headers)
            self.transport.write(b"%b\r\n%b%b" % (line, headers, rest))
            self._refusal = b""
            super().on_response_complete()
            return
        context_of(cast(Scope, self.cycle.scope)).received = self._received
        if self._rest_timer is not None:
            self._stop_rest_timer()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Read on if the body has not ended: a client that is still sending would miss the response."""
        self.turns.received()
        super().on_response_complete()
        if self.cycle.response_complete and self.cycle.more_body and not self.transport.is_closing():
            self._rest_timer = self.loop.call_later(self.head_timeout_seconds, self.transport.close)

    def _check_early(self) -> bytes:
        """Check a request that has arrived whole, and whose connection stays open as it is."""
        parser = self.parser
        if (
            (self.cycle is not None and not self.cycle.response_complete)
            or self.flow.write_paused
            or parser.get_method() != b"POST"
            or parser.get_http_version() != "1.1"
            or not parser.should_keep_alive()
            or not any(h == (b"content-length", b"%d" % self._body_bytes) for h in self.headers)
        ):
            return b""
        port = (self.server or ("", None))[1] or 0
        return self.check_early(self.url, self.headers, port, self._received)

    def _parse(self, data: bytes) -> None:
        super().data_received(data)
        if not self._parser_in_head or self.transport.is_closing():
            self._stop_timer()
            return
        self._start_timer()  # a pipelined head that is not complete
        self._pipelined_bytes += len(data)
        if self._pipelined_bytes > 2 * HEAD_LIMIT_BYTES:
            self._refuse()

    def _refuse(self) -> None:
        self._stop_timer()
        self.transport.write(_ANSWER)
        self.transport.close()

    def _stop_rest_timer(self) -> None:
        if self._rest_timer is not None:
            self._rest_timer.cancel()
            self._rest_timer = None

    def _start_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_timeout_seconds, self.transport.close)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
