"""`POST /v1/embeddings`: text embeddings in the format of OpenAI's API."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from starlette.responses import Response

from service.errors import InvalidInput
from service.http.json_response import JsonResponse
from service.http.v1.request_body import ParsedBody, read_json_items, read_json_object
from service.http.v1.tasks import TaskEndpoint
from service.inference.request import InferenceAnswer, InferenceRequest
from service.tasks.text.embedding import EmbeddingParameters

_FIELDS = ("input", "model", "dimensions", "encoding_format", "truncate", "user")


class EmbeddingsEndpoint(TaskEndpoint):
    """Embeds texts: `input` is a text or a list of them, `encoding_format` is `float` or `base64`."""

    path = "/v1/embeddings"

    def is_enveloped(self, content_type: str) -> bool:
        """Return True: the body is JSON, whatever its content type says."""
        return True

    def parse(self, content: bytes, content_type: str) -> ParsedBody:
        """Read OpenAI's request; its `user` is accepted and not used."""
        if not content:
            raise InvalidInput('the body is empty; send JSON such as {"model": …, "input": […]}')
        request = read_json_object(content, _FIELDS, required="input")
        raws = read_json_items(request["input"], self.task, self.max_items, "input")
        given = {name: value for name, value in request.items() if name not in ("input", "user")}
        return ParsedBody(raws, ("",) * len(raws), {k: v for k, v in given.items() if v is not None})

    def describe(self) -> dict[str, Any]:
        """Return what the OpenAPI document says of request and answer."""
        return embeddings_operation(self.parameters.model_json_schema()["properties"])

    def answer_model(self) -> None:
        """Return None: `describe` says what the answer is."""

    async def respond(self, asked: InferenceRequest, answer: InferenceAnswer) -> Response:
        """Return OpenAI's list of embeddings; `usage` counts the model's own tokens."""
        assert isinstance(asked.parameters, EmbeddingParameters), "the route has this task's parameters"
        encode = _base64 if asked.parameters.encoding_format == "base64" else _floats
        tokens = sum(answer.costs)
        content = {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, **result, "embedding": encode(result["embedding"])}
                for index, result in enumerate(answer.results)
            ],
            "model": answer.version.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
        return JsonResponse(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY))


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
