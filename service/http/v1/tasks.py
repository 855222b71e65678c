"""`POST /v1/<task>`: a body in, one result an item out. Every task goes through this one handler.

    limits ─▶ model and parameters ─▶ body ─▶ items ─▶ core ─▶ JSON

Where the body holds no parameters, a request that would be late is refused before its body is read.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any

import orjson
from pydantic import BaseModel
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from service.http.body_limits import BodyLimits, RequestBody, stated_bytes
from service.http.context import RequestContext, context_of
from service.http.disconnect_watch import DisconnectWatch
from service.http.json_response import JsonResponse
from service.http.v1.operation import answer_model_of, describe_task
from service.http.v1.parameters import parse_parameters, parse_priority, parse_timeout, read_query
from service.http.v1.request_body import ParsedBody, is_enveloped, parse_body
from service.inference.core import InferenceCore
from service.inference.request import InferenceAnswer, InferenceRequest
from service.tasks import TASKS, Task

_REMEMBERED_QUERIES = 256
_LONGEST_REMEMBERED = 256


class TaskEndpoint:
    """The endpoint of one task. OpenAI's shapes are subclasses with another `parse` and `respond`.

    Args:
        task: The task's name.
        core: Answers requests.
        body_limits: Bounds on bodies.
        max_items: Most items of one request.
    """

    def __init__(self, task: str, core: InferenceCore, body_limits: BodyLimits, max_items: int) -> None:
        self.name = task
        self.task: type[Task] = TASKS[task]
        self.parameters: type[BaseModel] = self.task.parameters
        self.core = core
        self.max_items = max_items
        self._body_limits = body_limits
        self._remembered = lru_cache(_REMEMBERED_QUERIES)(self._read_parameters)

    @property
    def path(self) -> str:
        """The route."""
        return f"/v1/{self.name}"

    def is_enveloped(self, content_type: str) -> bool:
        """Return whether the body wraps items and parameters; otherwise it is one raw item."""
        return is_enveloped(content_type)

    def parse(self, content: bytes, content_type: str) -> ParsedBody:
        """Find the items and parameters of a body."""
        return parse_body(content, content_type, self.task, self.max_items)

    def check(self, asked: InferenceRequest) -> None:
        """Refuse, before any decoding, what this endpoint cannot answer."""

    def read_head(self, context: RequestContext, query: bytes) -> InferenceRequest:
        """Read the head of a request: who asks for what, how urgent it is, and how much will come.

        Returns:
            The request for the core. Without parameters, where the body holds them.

        Raises:
            RequestError: A header or a parameter is wrong.
        """
        headers = context.headers
        asked = InferenceRequest(
            task=self.name,
            timeout_seconds=parse_timeout(headers.get(b"x-timeout-ms")),
            priority=parse_priority(headers.get(b"x-priority")),
            request_id=context.request_id,
            size_bytes=stated_bytes(headers),
            received=context.received or time.monotonic(),
        )
        if not self.is_enveloped(_content_type(context)):
            asked.model, asked.version, asked.parameters = self._parameters_of(query)
        return asked

    async def handle(self, request: Request) -> Response:
        """Answer one request."""
        await self.core.ready()
        context, query = context_of(request.scope), request.scope["query_string"]
        asked = context.inference = self.read_head(context, query)
        body = self._body_limits.body(request.receive, context.headers)
        try:
            if asked.parameters is None:
                await self._read_envelope(context, asked, body, query)

            async def receive_items() -> None:
                if not asked.items:
                    content = await body.read(is_there=context.received is not None)
                    asked.received = context.received or time.monotonic()
                    self._take(asked, self.parse(content, _content_type(context)))
                self.check(asked)

            watch = partial(DisconnectWatch, request.receive)
            answer = await self.core.infer(asked, receive_items, watch)
            started = time.perf_counter()
            response = await self.respond(asked, answer)
            context.encode_seconds = time.perf_counter() - started
            return response
        finally:
            body.release(asked.unfinished)

    async def _read_envelope(
        self, context: RequestContext, asked: InferenceRequest, body: RequestBody, query: bytes
    ) -> None:
        """Read a body that holds parameters and items."""
        content = await body.read(is_there=context.received is not None)
        asked.received = context.received or time.monotonic()
        parsed = await self.core.pool.run(self.parse, content, _content_type(context))
        asked.model, asked.version, asked.parameters = self._read_parameters(query, parsed.parameters)
        self._take(asked, parsed)

    def _take(self, asked: InferenceRequest, parsed: ParsedBody) -> None:
        asked.items, asked.media_types = parsed.raws, parsed.declared_types

    async def respond(self, asked: InferenceRequest, answer: InferenceAnswer) -> Response:
        """Return the response that all tasks share."""
        content = {
            "id": asked.request_id,
            "model": answer.version.model,
            "version": str(answer.version.number),
            "task": self.name,
            "results": answer.results,
        }
        return JsonResponse(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY))

    def describe(self) -> dict[str, Any]:
        """Return what the OpenAPI document says of the request."""
        return describe_task(self.task)

    def answer_model(self) -> type[BaseModel] | None:
        """Return the model of the answer, for the document; None where `describe` says it."""
        return answer_model_of(self.task)

    def _parameters_of(self, query: bytes) -> tuple[str | None, str | None, BaseModel]:
        if len(query) > _LONGEST_REMEMBERED:
            return self._read_parameters(query)
        return self._remembered(query)

    def _read_parameters(
        self, query: bytes, given: Mapping[str, object] = MappingProxyType({})
    ) -> tuple[str | None, str | None, BaseModel]:
        return parse_parameters(read_query(QueryParams(query).multi_items()), given, self.parameters)


def _content_type(context: RequestContext) -> str:
    return context.headers.get(b"content-type", b"").decode("latin-1")
