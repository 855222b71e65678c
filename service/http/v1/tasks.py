"""`POST /v1/<task>`: a body in, one result an item out. Every task goes through this one handler.

    early refusal ─▶ body ─▶ items ─▶ permit ─▶ decode (worker threads) ─▶ queue … lane ─▶ answers ─▶ JSON

A request of several items is one whole: a bad item is named, and nothing of the request runs.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import orjson
from pydantic import BaseModel
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from service.engine.queue.pending_request import DEFAULT_PRIORITY, PendingRequest
from service.errors import DeadlineExceeded, NotReady, Overloaded, RequestError, TooLarge
from service.http.body_limits import BodyHold, BodyLimits, stated_bytes
from service.http.disconnect_watch import DisconnectWatch
from service.http.json_response import JsonResponse
from service.http.server.turnstile import Turnstile
from service.http.v1.request_body import (
    Body,
    at_item,
    is_enveloped,
    parse_body,
    parse_parameters,
    parse_priority,
    parse_timeout,
    read_query,
)
from service.inference.backlog import Backlog
from service.inference.decoding_pool import DecodingPool
from service.inference.refusals import Refusals
from service.repository.catalog import Catalog
from service.repository.loader import Version
from service.settings import Settings
from service.tasks import TASKS, Decoded, Limits, Task
from service.tasks.task import Outputs, Result

_Result = TypeVar("_Result")

# What the event loop decodes itself, because handing it to a thread and back would take longer.
_QUICK = Limits(max_pixels=2**16)
_REMEMBERED_QUERIES = 256
_LONGEST_REMEMBERED = 256
_SHARES = 4  # how many parts of a large request each decoding thread gets, so that none ends up with it all


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What the task endpoints are built from.

    Attributes:
        limits: What one item may unpack to.
        is_open: False once new work is refused, at the end of a drain.
    """

    catalog: Catalog
    settings: Settings
    limits: Limits
    door: BodyLimits
    backlog: Backlog
    refusals: Refusals
    decoding_pool: DecodingPool
    turnstile: Turnstile
    is_open: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Job:
    """One request on its way through.

    Attributes:
        is_quick: Whether it is a single small item, which the event loop may decode itself.
        seconds: Of sound in each recording that was decoded so far; several threads append to it.
    """

    version: Version
    body: Body
    parameters: BaseModel
    pending: PendingRequest
    is_quick: bool
    seconds: list[float] = field(default_factory=list)


class TaskEndpoint:
    """The endpoint of one task. OpenAI's shapes are subclasses with another `parse` and `respond`.

    Attributes:
        deadline_grows: Whether longer items have more time, so that the body must be there to know it.
    """

    deadline_grows: ClassVar[bool] = False

    def __init__(self, task: str, dependencies: Dependencies) -> None:
        self.name = task
        self.task: type[Task] = TASKS[task]
        self.parameters: type[BaseModel] = self.task.parameters
        self._catalog = dependencies.catalog
        self._door = dependencies.door
        self._backlog = dependencies.backlog
        self._refusals = dependencies.refusals
        self._decoding_pool = dependencies.decoding_pool
        self._turnstile = dependencies.turnstile
        self._is_open = dependencies.is_open
        self._parameters_in = lru_cache(_REMEMBERED_QUERIES)(self._read_parameters)
        settings = dependencies.settings
        self.max_items = settings.max_items_per_request
        self.limits = dependencies.limits

    @property
    def path(self) -> str:
        """The route."""
        return f"/v1/{self.name}"

    def is_enveloped(self, content_type: str) -> bool:
        """Tell whether the body wraps items and parameters, or is one raw item."""
        return is_enveloped(content_type)

    def parse(self, content: bytes, content_type: str) -> Body:
        """Find the items and parameters of a body."""
        return parse_body(content, content_type, self.task, self.max_items)

    def check(self, version: Version, body: Body, parameters: BaseModel) -> None:
        """Refuse, before any decoding, what this endpoint cannot answer."""

    async def extra_seconds(self, version: Version, body: Body) -> float:
        """Tell how much longer than the model's default deadline these items may take."""
        return 0.0

    async def handle(self, request: Request) -> Response:
        """Answer one request."""
        if not self._is_open():
            raise NotReady("the server is shutting down", retry_after_seconds=1)
        scope = request.scope
        state: dict[str, Any] = scope["state"]
        state["task"] = self.name
        headers = dict(scope["headers"])
        content_type = headers.get(b"content-type", b"").decode("latin-1")
        stay = self._door.enter(headers)
        try:
            query = scope["query_string"]
            is_enveloped = self.is_enveloped(content_type)
            if not is_enveloped:  # no parameters in the body: refuse before reading it
                version, parameters = self._choose(query, {}, state)
                self._turn_away(version, scope, headers, is_alike=True)
            content = await self._door.read(request.receive, stay, is_there="arrived" in state)
            started = time.perf_counter()
            if not is_enveloped:
                body = self.parse(content, content_type)
            else:
                body = await self.in_worker(self.parse, content, content_type)
                version, parameters = self._choose(query, body.parameters, state)
                self._turn_away(version, scope, headers)
            self.check(version, body, parameters)
            stay.permit(version.model, version.manifest.batching.max_queue_items)
            pending = state["pending"] = await self._pending(headers, state, version, body)
            is_quick = len(body.raws) == 1 and len(body.raws[0]) <= version.task.quick_size
            job = Job(version, body, parameters, pending, is_quick)
            before = self._backlog.count
            self._backlog.count += 1
            lane_seconds = math.inf
            try:
                with DisconnectWatch(request.receive, pending):
                    decoded = await self._let_in(job, stay)
                    stages = state["stages"] = {"decode": time.perf_counter() - started}
                    if job.is_quick:
                        lane_seconds = version.batcher.predicted_answer_seconds
                    outputs = await self._outputs(job)
            finally:
                self._backlog.count -= 1
                if lane_seconds < math.inf:  # late and expired ones too: they tell most
                    self._backlog.learn_from(pending, time.perf_counter() - started, lane_seconds, before)
            started = time.perf_counter()
            results = await self.answer(job, decoded, outputs)
            answer = await self.respond(job, decoded, results)
            stages["encode"] = time.perf_counter() - started
            return answer
        finally:
            stay.leave()

    def _turn_away(
        self, version: Version, scope: Scope, headers: Mapping[bytes, bytes], *, is_alike: bool = False
    ) -> None:
        """Refuse, before the body is read, what would be refused after it.

        Args:
            version: Who shall answer.
            scope: The request's.
            headers: By name, in lower case.
            is_alike: Whether every request with this URL and these headers wants the same.

        Raises:
            Overloaded: Its queue or the decoding threads would not be done in time.
        """
        asked = headers.get(b"x-timeout-ms")
        if asked is None and self.deadline_grows:
            return
        priority = parse_priority(headers.get(b"x-priority"), DEFAULT_PRIORITY)
        seconds = parse_timeout(asked, version.manifest.deadline_seconds)
        arrived = scope["state"].get("arrived") or time.monotonic()
        try:
            self._check_door(version, priority, seconds, arrived)
        except Overloaded:
            if is_alike:
                self._turnstile.remember(scope, partial(self._check_door, version, priority, seconds))
            raise
        if stated_bytes(headers) > version.task.quick_size:
            left = arrived + seconds - time.monotonic()
            self._decoding_pool.check(version.model, priority, 1, left)

    def _check_door(
        self, version: Version, priority: int, seconds: float, arrived: float, coming: int = 0
    ) -> None:
        deadline = arrived + seconds
        self._backlog.check(deadline - time.monotonic(), coming)
        self._ask(version, priority, deadline, coming)

    def _ask(self, version: Version, priority: int, deadline: float, coming: int = 0) -> None:
        """Refuse what the queue would refuse after decoding."""
        try:
            version.batcher.check(priority, deadline, self._decoding_pool.items(version.model) + coming)
        except Overloaded as error:
            raise Overloaded(
                error.message, reason="door", retry_after_seconds=error.retry_after_seconds or 0.0
            ) from error
        self._refusals.check(version, priority, deadline, time.monotonic())

    async def _pending(
        self, headers: Mapping[bytes, bytes], state: Mapping[str, Any], version: Version, body: Body
    ) -> PendingRequest:
        """Give the request its pending; its deadline counts from when the body was there."""
        arrived: float = state.get("arrived") or time.monotonic()
        asked = headers.get(b"x-timeout-ms")
        seconds = parse_timeout(asked, version.manifest.deadline_seconds)
        if asked is None and self.deadline_grows:
            seconds += await self.extra_seconds(version, body)
        priority = parse_priority(headers.get(b"x-priority"), DEFAULT_PRIORITY)
        return PendingRequest(deadline=arrived + seconds, label=state["request_id"], priority=priority)

    async def _let_in(self, job: Job, stay: BodyHold) -> list[Decoded]:
        """Decode and submit, here if that is a small thing."""
        pending = job.pending
        self._ask(job.version, pending.priority, pending.deadline)
        decoded = self._admit_quickly(job)
        return await self._admit_in_workers(job, stay) if decoded is None else decoded

    async def _outputs(self, job: Job) -> list[Outputs]:
        if not job.pending.items:  # silence
            return []
        try:
            outputs = await job.pending.outputs()
        except Overloaded as error:  # an engine in another process says so later
            self._refusals.note(job.version, job.pending, error, time.monotonic())
            raise
        self._decoding_pool.note_run(job.version.model, job.pending.infer_seconds)
        return outputs

    def _choose(
        self, query: bytes, given: Mapping[str, object], state: dict[str, Any]
    ) -> tuple[Version, BaseModel]:
        if given or len(query) > _LONGEST_REMEMBERED:
            model, number, parameters = self._read_parameters(query, given)
        else:
            model, number, parameters = self._parameters_in(query)
        version = self._catalog.find(self.name, model, number)
        state["model"], state["version"] = version.model, str(version.number)
        return version, parameters

    def _read_parameters(
        self, query: bytes, given: Mapping[str, object] = MappingProxyType({})
    ) -> tuple[str | None, str | None, BaseModel]:
        return parse_parameters(read_query(QueryParams(query).multi_items()), given, self.parameters)

    def _admit_quickly(self, job: Job) -> list[Decoded] | None:
        """Decode and submit a single small item right here; None where that is no small thing."""
        if not job.is_quick:
            return None
        try:
            return self._decode_and_submit(job, _QUICK, on_loop=True)
        except TooLarge:  # of the quick limits; the real ones decide in a worker
            return None

    async def _admit_in_workers(self, job: Job, stay: BodyHold) -> list[Decoded]:
        """Wait for the admission while somebody waits for the answer.

        Args:
            job: The request.
            stay: Kept until the workers have let go of its body.
        """
        pending = job.pending
        left = pending.deadline - time.monotonic()
        self._decoding_pool.check(job.version.model, pending.priority, len(job.body.raws), left)
        admission = asyncio.ensure_future(self._admit(job))
        try:
            return await pending.unless_failed(admission)
        finally:
            if not admission.done():
                stay.keep_until(admission)

    async def _admit(self, job: Job) -> list[Decoded]:
        """Decode every item in the workers, then submit them all, or raise for the first bad one."""
        count, decoding_pool = len(job.body.raws), self._decoding_pool
        model, priority = job.version.model, job.pending.priority
        if count == 1:
            return await decoding_pool.run(
                self._decode_and_submit, job, self.limits, kind=model, priority=priority
            )
        step = math.ceil(count / (_SHARES * decoding_pool.count))
        shares = [range(first, min(first + step, count)) for first in range(0, count, step)]
        parts = [
            decoding_pool.run(self._decode_share, job, share, kind=model, priority=priority, items=len(share))
            for share in shares
        ]
        results = await asyncio.gather(*parts, return_exceptions=True)
        decoded: list[Decoded] = []
        for result in results:
            if isinstance(result, BaseException):
                raise result
            decoded += result
        await self.in_worker(self._submit, job, decoded)
        return decoded

    def _decode_share(self, job: Job, share: range) -> list[Decoded]:
        return [self.decode(job, index, self.limits) for index in share]

    def _decode_and_submit(self, job: Job, limits: Limits, *, on_loop: bool = False) -> list[Decoded]:
        decoded = [self.decode(job, 0, limits)]
        self._submit(job, decoded, on_loop=on_loop)
        return decoded

    def decode(self, job: Job, index: int, limits: Limits) -> Decoded:
        """Decode one item; in a worker, unless it is small."""
        if job.pending.dropped or job.pending.expired(time.monotonic()):
            raise DeadlineExceeded("the deadline passed before the item was decoded")
        body = job.body
        try:
            return job.version.task.decode(
                body.raws[index], limits, job.parameters, body.declared_types[index]
            )
        except RequestError as error:
            # Without its traceback, whose frames hold what was decoded so far: of an hour of sound 115 MB.
            raise at_item(error.with_traceback(None), index) from error

    def _submit(self, job: Job, decoded: Sequence[Decoded], *, on_loop: bool = False) -> None:
        parts = [part for item in decoded for part in item.parts]
        job.pending.fill(parts, [cost for item in decoded for cost in item.costs])
        if parts:  # silence makes none
            job.version.batcher.submit(job.pending, on_loop=on_loop)

    async def answer(self, job: Job, decoded: Sequence[Decoded], outputs: Sequence[Outputs]) -> list[Result]:
        """Turn the outputs into one result an item; endpoints whose task is slow at it use a worker."""
        return answer_all(job, decoded, outputs)

    async def respond(self, job: Job, decoded: Sequence[Decoded], results: Sequence[Result]) -> Response:
        """Give the answer that all tasks share."""
        content = {
            "id": job.pending.label,
            "model": job.version.model,
            "version": str(job.version.number),
            "task": self.name,
            "results": results,
        }
        return JsonResponse(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY))

    def in_worker(self, function: Callable[..., _Result], *arguments: object) -> Awaitable[_Result]:
        """Call a function on one of the decoding threads."""
        return self._decoding_pool.run(function, *arguments)


def answer_all(job: Job, decoded: Sequence[Decoded], outputs: Sequence[Outputs]) -> list[Result]:
    """Hand each item its parts' outputs, in the request's order."""
    rest = iter(outputs)
    return [
        job.version.task.answer(list(itertools.islice(rest, len(item.parts))), item, job.parameters)
        for item in decoded
    ]
