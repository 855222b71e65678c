"""What the OpenAPI document says of a task endpoint: its parameters, its body and its answer."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, create_model

from service.tasks import Task
from service.tasks.audio.audio_file import FORMATS_TEXT

BINARY = {"type": "string", "format": "binary"}
_FORMATS = {"audio/*": FORMATS_TEXT}
_FIELDS = {  # what every task takes beside its own parameters
    "model": {"type": "string", "description": "Which model; else the task's default."},
    "version": {"type": "string", "description": "Which version; else the newest that is ready."},
}


def describe_task(task: type[Task]) -> dict[str, Any]:
    """Describe the request of one task endpoint, as OpenAPI's operation object has it."""
    fields = _FIELDS | task.parameters.model_json_schema()["properties"]
    return {
        "description": "The body is one raw file, or a form with one or several `file` parts, or JSON."
        + (f" Taken are {_FORMATS[task.media_type]} files." if task.media_type in _FORMATS else ""),
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
    }


def _request_content(task: type[Task], fields: dict[str, Any]) -> dict[str, Any]:
    described = "A text" if task.media_type.startswith("text/") else "A base64 file"
    item = {"type": "string", "description": described}
    inputs = {"oneOf": [item, {"type": "array", "items": item, "minItems": 1}]}
    parameters = {"type": "object", "properties": fields, "additionalProperties": False}
    return {
        task.media_type: {"schema": BINARY},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": {"type": "array", "items": BINARY}, **fields},
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


def answer_model_of(task: type[Task]) -> type[BaseModel]:
    """Make the model of a task's answer, for the document."""
    result: Any = task.result
    return create_model(
        f"{result.__name__}Answer",
        id=(str, ...),
        model=(str, ...),
        version=(str, ...),
        task=(str, ...),
        results=(list[result], ...),
    )
