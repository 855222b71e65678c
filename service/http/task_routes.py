"""The short way to the busy endpoints: past the framework's layers, straight to the handler.

FastAPI still has these routes, for the OpenAPI document and for the 405 of other methods; only their
requests do not pass through its middleware and routing, which cost more than a small model's inference.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import ClientGone, RequestError
from service.http.errors import render_for

Handler = Callable[[Request], Awaitable[Response]]


class HotRoutes:
    """Plain ASGI: answers `POST` to known paths, and hands everything else on.

    Args:
        app: What answers the rest.
        handlers: By path.
        back: Awaited first: waits while an engine in another process is about to come back.
    """

    def __init__(
        self,
        app: ASGIApp,
        handlers: Mapping[str, Handler],
        back: Callable[[], Awaitable[None]],
    ) -> None:
        self._app = app
        self._handlers = handlers
        self._back = back

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        handler = self._handlers.get(scope["path"]) if scope["type"] == "http" else None
        if handler is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        scope["endpoint"] = handler
        request = Request(scope, receive)
        await self._back()
        try:
            answer = await handler(request)
        except ClientGone:
            raise
        except RequestError as error:
            answer = render_for(request, error)
        await answer(scope, receive, send)
