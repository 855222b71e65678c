"""`/docs` and `/openapi.json`, and what the document says of the task endpoints.

FastAPI writes the document. The endpoints describe their own request bodies, which they read without pydantic
models; see `v1.operation`.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from starlette.responses import Response

from service.http.v1.tasks import TaskEndpoint

_ASSETS = "/docs/assets"
_ERROR_TEXTS = {
    400: "The body is not what it claims to be; `param` names the item",
    404: "Unknown model or version",
    408: "The body came too slowly",
    413: "Too many bytes, pixels, seconds or items",
    415: "A media type or content encoding that is not decoded here",
    422: "A parameter is out of range",
    429: "Would not be answered in time; see `Retry-After`",
    500: "The server failed",
    503: "The model is not ready",
    504: "The deadline passed",
}


class ErrorBody(BaseModel):
    """The content of an error."""

    message: str
    type: str
    code: str
    param: str | None
    request_id: str


class Error(BaseModel):
    """The format of all errors under `/v1`."""

    error: ErrorBody


ANY_ERROR: dict[int | str, dict[str, Any]] = {"default": {"model": Error, "description": "An error"}}
_TASK_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Error, "description": text} for status, text in _ERROR_TEXTS.items()
}


def add_docs_page(app: FastAPI) -> None:
    """Serve a page to read the document, from this process alone."""
    app.mount(_ASSETS, StaticFiles(packages=[("fastapi_swagger", "resources")]), name="docs-assets")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=app.title,
            swagger_js_url=f"{_ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{_ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{_ASSETS}/favicon-32x32.png",
        )

    @app.get("/", include_in_schema=False)
    async def index() -> RedirectResponse:
        return RedirectResponse("/docs")


def add_endpoint(app: FastAPI, endpoint: TaskEndpoint) -> None:
    """Register an endpoint with FastAPI, so that the document has it and other methods get 405."""
    operation = endpoint.describe()
    app.add_api_route(
        endpoint.path,
        endpoint.handle,
        methods=["POST"],
        tags=["tasks"],
        summary=operation.pop("summary", endpoint.name.replace("-", " ").capitalize()),
        operation_id=operation.pop("operationId", endpoint.name.replace("-", "_")),
        response_class=Response,
        response_description="One result an item, in the order they came",
        response_model=endpoint.answer_model(),
        responses=_TASK_ERRORS,
        openapi_extra=operation,
    )
