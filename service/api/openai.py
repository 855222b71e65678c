"""`POST /v1/embeddings`: OpenAI's shape, over the same path through the service as every task."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from starlette.responses import Response

from service.api.bodies import Body, at_item
from service.api.tasks import Job, TaskEndpoint
from service.errors import InvalidInput, RequestError, TooLarge, ValidationFailed
from service.tasks import Decoded
from service.tasks.task import Result
from service.tasks.text import EmbeddingParameters

_FIELDS = frozenset(("input", "model", "dimensions", "encoding_format", "truncate", "user"))


class EmbeddingsEndpoint(TaskEndpoint):
    """Embeds texts: `input` is a text or a list of them, `encoding_format` is `float` or `base64`."""

    path = "/v1/embeddings"

    def is_enveloped(self, content_type: str) -> bool:
        """The body is JSON whatever its content type says."""
        return True

    def parse(self, content: bytes, content_type: str) -> Body:
        """Read OpenAI's request; its `user` is accepted and not used."""
        try:
            request = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise InvalidInput(f"the body is not JSON: {error}") from error
        if not isinstance(request, dict):
            raise InvalidInput('the body must be an object such as {"model": …, "input": […]}')
        if unknown := sorted(request.keys() - _FIELDS):
            raise ValidationFailed(f"there is no field {unknown[0]}", param=unknown[0])
        if "input" not in request:
            raise ValidationFailed("the field input is missing", param="input")
        inputs = request["input"]
        values = inputs if isinstance(inputs, list) else [inputs]
        if not values:
            raise InvalidInput("the request holds no item", param="input")
        if len(values) > self.max_items:
            raise TooLarge(
                f"the request holds {len(values)} items; the limit is {self.max_items}", param="input"
            )
        raws = []
        for index, value in enumerate(values):
            try:
                raws.append(self.task.from_json(value))
            except RequestError as error:
                raise at_item(error, index) from error
        given = {name: request[name] for name in request.keys() - {"input", "user"}}
        return Body(tuple(raws), ("",) * len(raws), {k: v for k, v in given.items() if v is not None})

    def respond(self, job: Job, decoded: Sequence[Decoded], results: Sequence[Result]) -> Response:
        """Give OpenAI's list of embeddings; `usage` counts the model's own tokens."""
        assert isinstance(job.parameters, EmbeddingParameters), "the route has this task's parameters"
        encode = _base64 if job.parameters.encoding_format == "base64" else _floats
        tokens = sum(sum(item.costs) for item in decoded)
        content = {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, **result, "embedding": encode(result["embedding"])}
                for index, result in enumerate(results)
            ],
            "model": job.version.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
        return Response(
            orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json"
        )


def _floats(vector: Any) -> Any:
    return np.ascontiguousarray(vector, dtype=np.float32)


def _base64(vector: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(vector, dtype="<f4").tobytes()).decode("ascii")


def embeddings_operation(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the endpoint for the OpenAPI document.

    Args:
        parameters: JSON schemas of the task's parameters, by name.
    """
    text = {"type": "string", "minLength": 1}
    number = {"type": "integer"}
    vector = {"oneOf": [{"type": "array", "items": {"type": "number"}}, {"type": "string"}]}
    item = {
        "type": "object",
        "properties": {
            "object": {"const": "embedding"},
            "index": number,
            "embedding": vector,
            "truncated": {"type": "boolean"},
        },
    }
    usage = {"type": "object", "properties": {"prompt_tokens": number, "total_tokens": number}}
    request = {
        "type": "object",
        "required": ["input"],
        "properties": {
            "input": {"oneOf": [text, {"type": "array", "items": text, "minItems": 1}]},
            "model": {"type": "string", "description": "Which model; else the default."},
            "user": {"type": "string", "description": "Accepted and not used."},
            **parameters,
        },
    }
    answer = {
        "type": "object",
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": item},
            "model": {"type": "string"},
            "usage": usage,
        },
    }
    return {
        "tags": ["tasks"],
        "summary": "Embeddings",
        "description": "OpenAI's shape; the official client works.",
        "operationId": "embeddings",
        "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
        "responses": {
            "200": {
                "description": "One embedding a text, in the order they came",
                "content": {"application/json": {"schema": answer}},
            }
        },
    }
