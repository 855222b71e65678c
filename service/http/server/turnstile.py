"""The quickest refusal: who asks what the door refused a moment ago is told so before any work begins.

Most of what a refusal costs stands in front of the door: a task, the layers, a log record. The door's own
checks are cheap. So what it refuses is remembered by all that it looks at: URL, key, deadline, priority and
media type. For a tenth of a second whoever asks the same is held against the same checks by the protocol,
which writes the answer itself. What they let pass goes the whole way, as does everything else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from starlette.types import Scope

from service.errors import Overloaded
from service.http.errors import render

Headers = Iterable[tuple[bytes, bytes]]
Check = Callable[[float, int], None]

_LASTING_SECONDS = 0.1
_MOST = 256
_SEEN = frozenset((b"authorization", b"x-api-key", b"x-timeout-ms", b"x-priority", b"content-type"))
_NEVER = frozenset((b"content-encoding", b"expect", b"transfer-encoding"))


@dataclass(slots=True)
class _Known:
    """What was refused: how to find out whether it still would be, and until when that is asked."""

    check: Check
    scope: Scope
    until: float


class Turnstile:
    """Remembers what the door refused. Lives on the event loop.

    Args:
        tell: Called once a turn of the loop with the scope of each that was refused, and its seconds.
        identify: Takes a request's id from its headers, or makes one.
        is_draining: Whether answers must say more than these do.
    """

    def __init__(
        self,
        tell: Callable[[Sequence[tuple[Scope, float]]], None],
        identify: Callable[[Headers], str],
        is_draining: Callable[[], bool],
    ) -> None:
        self._tell = tell
        self._identify = identify
        self._is_draining = is_draining
        self._known: dict[object, _Known] = {}
        self._refused: list[tuple[Scope, float]] = []
        self._coming = 0

    def remember(self, scope: Scope, check: Check) -> None:
        """Note that the door refuses a request.

        Args:
            scope: The request's; its state knows by the time that it is answered who asked for which model.
            check: Raises `Overloaded` where its like would still be refused. Takes when that may have reached
                the socket, in clock seconds, and how many were let pass that have not begun.
        """
        query = scope["query_string"]
        like = _like(scope["raw_path"] + (b"?" + query if query else b""), scope["headers"])
        if like is not None:
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[like] = _Known(check, scope, time.monotonic() + _LASTING_SECONDS)

    def turn_away(self, url: bytes, headers: Headers, body_bytes: int, arrived: float) -> bytes | None:
        """Refuse a request that has just been read.

        Args:
            url: As it was sent.
            headers: With names in lower case.
            body_bytes: How much has come behind its head.
            arrived: When it may have reached the socket, in clock seconds.

        Returns:
            The whole answer; None where the request goes the whole way.
        """
        if not self._known or self._is_draining():
            return None
        like = _like(url, headers, body_bytes)
        known = self._known.get(like)
        if known is None:
            return None
        begun = time.monotonic()
        if begun > known.until:
            del self._known[like]
            return None
        try:
            known.check(arrived, self._coming)
        except Overloaded as error:
            known.until = begun + _LASTING_SECONDS
            return self._answer(known.scope, self._identify(headers), error, begun)
        if not self._coming:
            asyncio.get_running_loop().call_soon(self._all_have_begun)
        self._coming += 1
        return None

    def _answer(self, like: Scope, identity: str, error: Overloaded, begun: float) -> bytes:
        answer = render(error, identity)
        answer.raw_headers.append((b"x-request-id", identity.encode("latin-1")))
        if not self._refused:
            asyncio.get_running_loop().call_soon(self._tell_all)
        state = {**like["state"], "request_id": identity, "error_message": error.message}
        self._refused.append(({**like, "state": state}, time.monotonic() - begun))
        lines = [b"%b: %b\r\n" % header for header in answer.raw_headers]
        return b"".join((b"HTTP/1.1 429 Too Many Requests\r\n", *lines, b"\r\n", answer.body))

    def _all_have_begun(self) -> None:
        self._coming = 0

    def _tell_all(self) -> None:
        refused, self._refused = self._refused, []
        self._tell(refused)


def _like(url: bytes, headers: Headers, body_bytes: int | None = None) -> object:
    """Make what alike requests have in common.

    Returns:
        None where the request is none of the simple kind, or where not its whole body has come.
    """
    seen: list[object] = [url]
    stated = b""
    for header in headers:
        name = header[0]
        if name in _SEEN:
            seen.append(header)
        elif name == b"content-length":
            stated = header[1]
        elif name in _NEVER:
            return None
    return tuple(seen) if body_bytes is None or stated == b"%d" % body_bytes else None
