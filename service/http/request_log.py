"""The outermost layer: request id, timing, one metric and one log line for every request.

Plain ASGI. It also catches what nobody else caught: the traceback goes to the log under the request
id, the client gets a fixed text.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Collection
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ClientGone
from service.http.context import RequestContext, attach_context
from service.http.errors import render_unexpected
from service.telemetry.logs import request_id as current_request_id
from service.telemetry.metrics import RequestReport

_ACCEPTED_ID = re.compile(rb"^[\x21-\x7e]{1,128}$")
_UNMATCHED = "unmatched"
_QUIET_ROUTES = frozenset(("/healthz", "/readyz", "/metrics"))
_METHODS = frozenset(("GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"))
_CLIENT_GONE = 499

_log = logging.getLogger("kotae.request")


class RequestObserver(Protocol):
    """Receives the beginning and the end of every request."""

    def request_started(self) -> None:
        """A request came in."""

    def request_done(self, report: RequestReport) -> None:
        """A request was answered, failed, or its client hung up."""


class RequestLog:
    """Counts and logs every request.

    Args:
        observer: Receives every request, for the metrics.
    """

    def __init__(self, observer: RequestObserver) -> None:
        self._observer = observer

    def begin(self, context: RequestContext) -> None:
        """Note that a request came in, and give it its id."""
        context.request_id = _identify(context.headers.get(b"x-request-id"))
        self._observer.request_started()

    def end(self, method: str, route: str, context: RequestContext, status: int, seconds: float) -> None:
        """Note how a request ended.

        Args:
            method: HTTP's.
            route: The route's template.
            context: The request's.
            status: HTTP's; 499 where the client hung up.
            seconds: From its head to its answer.
        """
        self._observer.request_done(_report(method, route, context, status, seconds))
        level = logging.DEBUG if route in _QUIET_ROUTES and status < 500 else logging.INFO
        if _log.isEnabledFor(level):
            _log.log(level, "request", extra=_line(method, route, context, status, seconds))


class RequestMiddleware:
    """Plain ASGI middleware around the application.

    Args:
        app: The next layer.
        log: Counts and logs every request.
        fixed_paths: Paths of routes without parameters. They name their route where FastAPI does not.
        is_draining: Returns whether answers shall ask the client to close its connection.
    """

    def __init__(
        self, app: ASGIApp, log: RequestLog, fixed_paths: Collection[str], is_draining: Callable[[], bool]
    ) -> None:
        self._app = app
        self._log = log
        self._fixed_paths = fixed_paths
        self._is_draining = is_draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event; only HTTP is watched."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = attach_context(scope)
        context.headers = dict(scope["headers"])
        self._log.begin(context)
        identity = context.request_id
        token = current_request_id.set(identity)
        started = time.perf_counter()
        status = 0

        async def send_watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", identity.encode("latin-1"))]
                if self._is_draining():
                    headers.append((b"connection", b"close"))
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, receive, send_watched)
        except ClientGone:
            status = _CLIENT_GONE
        except Exception:
            _log.exception("unexpected error")
            if status == 0:
                await render_unexpected(identity)(scope, receive, send_watched)
        finally:
            route = self._route_of(scope, context)
            seconds = time.perf_counter() - started
            self._log.end(scope["method"], route, context, status or _CLIENT_GONE, seconds)
            current_request_id.reset(token)

    def _route_of(self, scope: Scope, context: RequestContext) -> str:
        route: str | None = context.route or getattr(scope.get("route"), "path", None)
        if route is None and scope["path"] in self._fixed_paths:
            route = scope["path"]
        return route or _UNMATCHED


def _report(method: str, route: str, context: RequestContext, status: int, seconds: float) -> RequestReport:
    report = RequestReport(
        route=route,
        method=method if method in _METHODS else "other",
        status=status,
        seconds=seconds,
        refused=context.refused,
    )
    asked = context.inference
    if asked is not None:
        report.task = asked.task
        report.items = asked.item_count
        if asked.target is not None:
            report.model, report.version = asked.target.model, str(asked.target.number)
        if asked.decode_seconds:
            report.stages = (("decode", asked.decode_seconds),)
        if context.encode_seconds:
            report.stages = (*report.stages, ("encode", context.encode_seconds))
    return report


def _line(method: str, route: str, context: RequestContext, status: int, seconds: float) -> dict[str, object]:
    line: dict[str, object] = {
        "route": route,
        "method": method,
        "status": status,
        "seconds": round(seconds, 6),
    }
    asked = context.inference
    if asked is not None and asked.target is not None:
        line |= {"model": asked.target.model, "version": str(asked.target.number)}
    if context.key:
        line["key"] = context.key
    if asked is not None and asked.pending is not None:
        line |= {
            "items": asked.item_count,
            "queue_seconds": round(asked.pending.queue_seconds, 6),
            "infer_seconds": round(asked.pending.infer_seconds, 6),
            "batch_items": asked.pending.batch_items,
        }
    if context.error_code:
        line |= {"error": context.error_code, "error_message": context.error_message}
    return line


def _identify(given: bytes | None) -> str:
    """Return the client's id of a request if it is short and printable, else a new one."""
    if given is not None and _ACCEPTED_ID.match(given):
        return given.decode("latin-1")
    return f"{random.getrandbits(128):032x}"  # unique, but no secret: asking the system switches threads
