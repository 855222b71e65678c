"""The outermost layer: request id, timing, one metric and one log line for every request.

Plain ASGI. It also catches what nobody else caught: the traceback goes to the log under the request
id, the client gets the fixed text that it was handed as `render_unexpected`.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ClientGone
from service.telemetry.logs import request_id as current_request_id
from service.telemetry.metrics import RequestReport

_ACCEPTED_ID = re.compile(rb"^[\x21-\x7e]{1,128}$")
_UNMATCHED = "unmatched"
_QUIET_ROUTES = frozenset(("/healthz", "/readyz", "/metrics"))
_TOO_MANY_REQUESTS = 429
_CLIENT_GONE = 499

_log = logging.getLogger("kotae.request")


class RequestObserver(Protocol):
    """Receives every request's beginning and end."""

    def request_started(self) -> None:
        """A request came in."""

    def request_done(self, report: RequestReport) -> None:
        """A request was answered, failed or hung up on."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the middleware needs to know of the application.

    Attributes:
        route_of: The route template that a finished request's scope was matched to.
        is_draining: Whether answers shall ask the client to close its connection.
        render_unexpected: Builds the 500 response for a request id.
    """

    observer: RequestObserver
    route_of: Callable[[Scope], str | None]
    is_draining: Callable[[], bool]
    render_unexpected: Callable[[str], ASGIApp]


class RequestMiddleware:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, surroundings: Surroundings) -> None:
        self._app = app
        self._around = surroundings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event; only HTTP is watched."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state: dict[str, Any] = scope.setdefault("state", {})
        identity = state["request_id"] = identify(scope["headers"])
        token = current_request_id.set(identity)
        started = time.perf_counter()
        status = 0

        async def send_watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", identity.encode("latin-1"))]
                if self._around.is_draining():
                    headers.append((b"connection", b"close"))
                message = {**message, "headers": headers}
            await send(message)

        self._around.observer.request_started()
        try:
            await self._app(scope, receive, send_watched)
        except ClientGone:
            status = _CLIENT_GONE
        except Exception:
            _log.exception("unexpected error")
            if status == 0:
                await self._around.render_unexpected(identity)(scope, receive, send_watched)
        finally:
            self._finish(scope, status or _CLIENT_GONE, time.perf_counter() - started)
            current_request_id.reset(token)

    def note_refused(self, refused: Sequence[tuple[Scope, float]]) -> None:
        """Count and log what was answered 429 before it came here.

        Args:
            refused: Scope and seconds of each, as if it had been here.
        """
        lines = []
        for scope, seconds in refused:
            route = self._around.route_of(scope) or _UNMATCHED
            self._around.observer.request_started()
            self._count(scope, route, _TOO_MANY_REQUESTS, seconds)
            line = _line(scope, route, _TOO_MANY_REQUESTS, seconds)
            lines.append({**line, "request_id": scope["state"]["request_id"]})
        _log.info("request", extra={"lines": lines})

    def _finish(self, scope: Scope, status: int, seconds: float) -> None:
        route = self._around.route_of(scope) or _UNMATCHED
        self._count(scope, route, status, seconds)
        level = logging.DEBUG if route in _QUIET_ROUTES and status < 500 else logging.INFO
        if _log.isEnabledFor(level):
            _log.log(level, "request", extra=_line(scope, route, status, seconds))

    def _count(self, scope: Scope, route: str, status: int, seconds: float) -> None:
        state: Mapping[str, Any] = scope["state"]
        pending = state.get("pending")
        self._around.observer.request_done(
            RequestReport(
                route=route,
                method=_known_method(scope["method"]),
                status=status,
                seconds=seconds,
                model=state.get("model", ""),
                version=state.get("version", ""),
                task=state.get("task", ""),
                items=len(pending.items) if pending else 0,
                stages=tuple(state.get("stages", {}).items()),
                refused=state.get("refused", ""),
            )
        )


def _line(scope: Scope, route: str, status: int, seconds: float) -> dict[str, object]:
    state: Mapping[str, Any] = scope["state"]
    line = {"route": route, "method": scope["method"], "status": status, "seconds": round(seconds, 6)}
    if state.get("model"):
        line |= {"model": state["model"], "version": state.get("version", "")}
    if "key" in state:
        line["key"] = state["key"]
    if pending := state.get("pending"):
        line |= {
            "items": len(pending.items),
            "queue_seconds": round(pending.queue_seconds, 6),
            "infer_seconds": round(pending.infer_seconds, 6),
            "batch_items": pending.batch_items,
        }
    if "error" in state:
        line |= {"error": state["error"], "error_message": state["error_message"]}
    return line


def identify(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Take the client's id of a request if it is short and printable, else make one."""
    for name, value in headers:
        if name == b"x-request-id" and _ACCEPTED_ID.match(value):
            return bytes(value).decode("latin-1")
    return f"{random.getrandbits(128):032x}"  # unique, but no secret: asking the system switches threads


def _known_method(method: str) -> str:
    return method if method in ("GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE") else "other"
