"""`/docs` and `/openapi.json`. The task endpoints are plain handlers, so they are described here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from pydantic import TypeAdapter

from service.http.v1.embeddings import EmbeddingsEndpoint, embeddings_operation
from service.http.v1.transcriptions import TranscriptionsEndpoint, transcriptions_operation
from service.tasks import TASKS, Task
from service.tasks.audio.audio_file import FORMATS_TEXT

_ASSETS = "/docs/assets"
_FORMATS = {"audio/*": FORMATS_TEXT}
_ERROR_TEXTS = {
    "400": "The body is not what it claims to be; `param` names the item",
    "404": "Unknown model or version",
    "408": "The body came too slowly",
    "413": "Too many bytes, pixels, seconds or items",
    "415": "A media type or content encoding that is not decoded here",
    "422": "A parameter is out of range",
    "429": "Would not be answered in time; see `Retry-After`",
    "500": "The server failed",
    "503": "The model is not ready",
    "504": "The deadline passed",
}
_BINARY = {"type": "string", "format": "binary"}
_FIELDS = {  # what every task takes beside its own parameters
    "model": {"type": "string", "description": "Which model; else the task's default."},
    "version": {"type": "string", "description": "Which version; else the newest that is ready."},
}


def install(app: FastAPI, tasks: Sequence[str]) -> None:
    """Serve the OpenAPI document and a page to read it, from this process alone."""
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

    written_by_fastapi = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = written_by_fastapi()
            schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            schema["security"] = [{}, {"key": []}]
            shared = schema["components"]["schemas"]
            shared["Error"] = _ERROR
            for name in tasks:
                if name == "text-embedding":
                    properties = TASKS[name].parameters.model_json_schema()["properties"]
                    schema["paths"][EmbeddingsEndpoint.path] = {"post": embeddings_operation(properties)}
                    continue
                result = TypeAdapter(TASKS[name].result).json_schema(
                    ref_template="#/components/schemas/{model}"
                )
                shared |= result.pop("$defs", {})
                shared[result["title"]] = result
                schema["paths"][f"/v1/{name}"] = {"post": _operation(name, TASKS[name], result["title"])}
            schema["paths"][TranscriptionsEndpoint.path] = {"post": transcriptions_operation()}
            for operations in schema["paths"].values():
                for operation in operations.values():
                    _describe_errors(operation)
        schema = app.openapi_schema or {}
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "code": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "request_id": {"type": "string"},
            },
        }
    },
}


def _describe_errors(operation: dict[str, Any]) -> None:
    """Give every error of an operation our one shape."""
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    responses = operation["responses"]
    responses.setdefault("default", {"description": "An error", "content": error})
    for status, text in _ERROR_TEXTS.items():
        if status in responses or "tasks" in operation.get("tags", ()):
            responses[status] = {"description": text, "content": error}


def _operation(name: str, task: type[Task], result: str) -> dict[str, Any]:
    """Describe one task endpoint."""
    fields = _FIELDS | task.parameters.model_json_schema()["properties"]
    return {
        "tags": ["tasks"],
        "summary": name.replace("-", " ").capitalize(),
        "description": "The body is one raw file, or a form with one or several `file` parts, or JSON."
        + (f" Taken are {_FORMATS[task.media_type]} files." if task.media_type in _FORMATS else ""),
        "operationId": name.replace("-", "_"),
        "parameters": [
            *(
                {"name": key, "in": "query", "schema": schema, "description": schema.get("description", "")}
                for key, schema in fields.items()
            ),
            {
                "name": "X-Timeout-Ms",
                "in": "header",
                "schema": {"type": "number", "exclusiveMinimum": 0},
                "description": "Deadline in milliseconds, counted from when the body has arrived.",
            },
        ],
        "requestBody": {"required": True, "content": _request_content(task, fields)},
        "responses": {
            "200": {
                "description": "One result an item, in the order they came",
                "content": {
                    "application/json": {"schema": _answer_schema(result)},
                    **({"image/png": {"schema": _BINARY}} if name == "object-detection" else {}),
                },
            },
        },
    }


def _request_content(task: type[Task], fields: dict[str, Any]) -> dict[str, Any]:
    described = "A text" if task.media_type.startswith("text/") else "A base64 file"
    item = {"type": "string", "description": described}
    inputs = {"oneOf": [item, {"type": "array", "items": item, "minItems": 1}]}
    parameters = {"type": "object", "properties": fields, "additionalProperties": False}
    return {
        task.media_type: {"schema": _BINARY},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": {"type": "array", "items": _BINARY}, **fields},
            }
        },
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["inputs"],
                "properties": {"inputs": inputs, "parameters": parameters},
            }
        },
    }


def _answer_schema(result: str) -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "type": "object",
        "required": ["id", "model", "version", "task", "results"],
        "properties": {
            **{name: text for name in ("id", "model", "version", "task")},
            "results": {"type": "array", "items": {"$ref": f"#/components/schemas/{result}"}},
        },
    }
