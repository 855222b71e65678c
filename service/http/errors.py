"""Errors as JSON, in one place: `{"error": {"message", "type", "code", "param", "request_id"}}`."""

from __future__ import annotations

import math

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from service.errors import (
    BodyTimeout,
    InferenceFailed,
    InvalidInput,
    KotaeError,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    RequestError,
    ValidationFailed,
)
from service.http.context import RequestContext, context_of
from service.http.json_response import JsonResponse

_TYPES = {401: "authentication_error", 403: "authentication_error", 429: "rate_limit_error"}
_BY_STATUS: dict[int, type[RequestError]] = {404: NotFound, 405: MethodNotAllowed, 422: ValidationFailed}


def render(error: RequestError, request_id: str, headers: dict[str, str] | None = None) -> JsonResponse:
    """Return the response for an error."""
    headers = dict(headers or {})
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_seconds)))
        headers["Retry-After-Ms"] = str(math.ceil(error.retry_after_seconds * 1000))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, BodyTimeout):
        headers["Connection"] = "close"  # what is still to come of the body must not be taken for a request
    body = {
        "message": error.message,
        "type": _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error"),
        "code": error.code,
        "param": error.param,
        "request_id": request_id,
    }
    return JsonResponse(orjson.dumps({"error": body}), error.status, headers)


def render_unexpected(request_id: str) -> JsonResponse:
    """Return the response for an unexpected exception: a fixed text, no details."""
    return render(
        InferenceFailed("the server failed; the request id finds the reason in its log"), request_id
    )


def render_for(
    context: RequestContext, error: RequestError, headers: dict[str, str] | None = None
) -> JsonResponse:
    """Return the response for an error of a request, and note the error for log and metrics."""
    context.error_code, context.error_message = error.code, error.message
    if isinstance(error, Overloaded):
        context.refused = error.reason
    if context.received is None and b"expect" in context.headers:
        headers = {**(headers or {}), "Connection": "close"}  # nobody knows whether the body is still sent
    return render(error, context.request_id, headers)


def install(app: FastAPI) -> None:
    """Render the errors of FastAPI's own routes in the same format."""
    app.add_exception_handler(KotaeError, _on_kotae_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)


async def _on_kotae_error(request: Request, error: Exception) -> JsonResponse:
    if not isinstance(error, RequestError) or error.status == 499:
        raise error  # not an answer: the middleware counts and logs it
    return render_for(context_of(request.scope), error)


async def _on_http_exception(request: Request, error: Exception) -> JsonResponse:
    assert isinstance(error, HTTPException)
    kind = _BY_STATUS.get(error.status_code, InvalidInput)
    message = {
        404: f"there is no {request.url.path} here",
        405: f"{request.method} is not allowed on {request.url.path}",
    }.get(error.status_code, str(error.detail))
    return render_for(context_of(request.scope), kind(message), dict(error.headers or {}))


async def _on_validation_error(request: Request, error: Exception) -> JsonResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"][1:]) or None
    refused: RequestError = ValidationFailed(f"{param}: {first['msg']}", param=param)
    if first["type"] == "json_invalid":
        refused = InvalidInput(f"the body is not JSON: {first['ctx']['error']}")
    return render_for(context_of(request.scope), refused)
