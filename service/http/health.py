"""`/healthz`, `/readyz` and `/metrics`, for probes and Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, PlainTextResponse


class Health(Protocol):
    """Answers the probes; an empty list means that all is well."""

    def not_live(self) -> list[str]:
        """Return the reasons to restart the process."""

    def not_ready(self) -> list[str]:
        """Return the reasons to send no requests."""


def health_router(health: Health, render_metrics: Callable[[], tuple[bytes, str]]) -> APIRouter:
    """Build the routes.

    Args:
        health: Asked at every probe.
        render_metrics: Returns the text of the metrics and its media type.
    """
    router = APIRouter(tags=["operations"])

    @router.head("/healthz", include_in_schema=False)
    @router.get("/healthz", summary="Is the process alive?")
    async def healthz() -> JSONResponse:
        reasons = health.not_live()
        return JSONResponse({"live": not reasons, "reasons": reasons}, 503 if reasons else 200)

    @router.head("/readyz", include_in_schema=False)
    @router.get("/readyz", summary="Should traffic come?")
    async def readyz() -> JSONResponse:
        reasons = health.not_ready()
        headers = {"Retry-After": "1"} if reasons else None
        return JSONResponse({"ready": not reasons, "missing": reasons}, 503 if reasons else 200, headers)

    @router.head("/metrics", include_in_schema=False)
    @router.get("/metrics", summary="Prometheus metrics", response_class=PlainTextResponse)
    def metrics() -> Response:  # not async: rendering runs in a thread
        text, media_type = render_metrics()
        return Response(text, media_type=media_type)

    return router
