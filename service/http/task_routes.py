"""The short way to the task endpoints: plain ASGI in front of FastAPI's routing.

FastAPI knows these routes too, for its document and for the 405 of other methods. Only their requests do not
pass through its routing, which costs more than the inference of a small model.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import ClientGone, RequestError
from service.http.context import context_of
from service.http.errors import render_for
from service.http.v1.tasks import TaskEndpoint


class TaskRoutes:
    """Plain ASGI middleware: answers `POST` to the task endpoints, and hands everything else on.

    Args:
        app: What answers the rest.
        endpoints: By path.
    """

    def __init__(self, app: ASGIApp, endpoints: Mapping[str, TaskEndpoint]) -> None:
        self._app = app
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event."""
        endpoint = self._endpoints.get(scope["path"]) if scope["type"] == "http" else None
        if endpoint is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        context = context_of(scope)
        context.route = scope["path"]
        try:
            response = await endpoint.handle(Request(scope, receive))
        except ClientGone:
            raise
        except RequestError as error:
            response = render_for(context, error)
        await response(scope, receive, send)
