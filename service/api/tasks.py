"""`POST /v1/<task>`: a body in, one result an item out. Every task goes through this one handler.

    permit ─▶ body ─▶ items ─▶ decode (worker threads) ─▶ queue … lane ─▶ answers ─▶ JSON

A request of several items is one whole: a bad item is named, and nothing of the request runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TypeVar

import orjson
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from service.api.bodies import (
    Body,
    at_item,
    is_enveloped,
    parse_body,
    parse_parameters,
    parse_priority,
    parse_timeout,
    read_query,
)
from service.api.limits import Door
from service.catalog import Catalog
from service.engine.ticket import DEFAULT_PRIORITY, Ticket
from service.errors import ClientGone, DeadlineExceeded, NotReady, RequestError, TooLarge
from service.loader import Version
from service.settings import Settings
from service.tasks import TASKS, Decoded, Limits, Task
from service.tasks.task import Outputs, Result

_Result = TypeVar("_Result")

# What the event loop decodes itself, because handing it to a thread and back would take longer.
_QUICK = Limits(max_pixels=2**16)
_WATCH_AFTER_SECONDS = 0.005  # most answers are there before a task to watch the connection would pay
_SHARES = 4  # how many parts of a large request each decoding thread gets, so that none ends up with it all


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What the task endpoints are built from.

    Attributes:
        limits: What one item may unpack to.
        workers: Threads that decode; there are `worker_count` of them.
        is_open: False once new work is refused, at the end of a drain.
    """

    catalog: Catalog
    settings: Settings
    limits: Limits
    door: Door
    workers: Executor
    worker_count: int
    is_open: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Job:
    """One request on its way through.

    Attributes:
        seconds: Of sound in each recording that was decoded so far; several threads append to it.
    """

    version: Version
    body: Body
    parameters: BaseModel
    ticket: Ticket
    seconds: list[float] = field(default_factory=list)


class TaskEndpoint:
    """The endpoint of one task. OpenAI's shapes are subclasses with another `parse` and `respond`."""

    def __init__(self, task: str, dependencies: Dependencies) -> None:
        self.name = task
        self.task: type[Task] = TASKS[task]
        self.parameters: type[BaseModel] = self.task.parameters
        self._catalog = dependencies.catalog
        self._door = dependencies.door
        self._workers = dependencies.workers
        self._worker_count = dependencies.worker_count
        self._is_open = dependencies.is_open
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
        state = request.state
        state.task = self.name
        content_type = request.headers.get("content-type", "")
        query = read_query(request.query_params.multi_items())
        version: Version | None = None
        if not self.is_enveloped(content_type):  # no parameters in the body: refuse before reading it
            version, parameters = self._choose(query, Body((), ()), request)
        with contextlib.ExitStack() as inside:
            held = inside.enter_context(self._door.room(request))
            content = await self._door.read(request, held)
            arrived = time.monotonic()  # the way here has a limit of its own
            started = time.perf_counter()
            body = await self._parse(content, content_type)
            if version is None:
                version, parameters = self._choose(query, body, request)
            self.check(version, body, parameters)
            most = version.manifest.batching.max_queue_items
            inside.enter_context(self._door.permit(version.model, most))
            timeout_seconds = await self._timeout_seconds(request, version, body)
            priority = parse_priority(request.headers.get("x-priority"), DEFAULT_PRIORITY)
            ticket = state.ticket = Ticket(
                deadline=arrived + timeout_seconds, label=state.request_id, priority=priority
            )
            job = Job(version, body, parameters, ticket)
            with _watched(request.receive, ticket):
                decoded = self._admit_quickly(job)
                if decoded is None:
                    decoded = await self._admit_in_workers(job, inside)
                stages = state.stages = {"decode": time.perf_counter() - started}
                outputs = await ticket.outputs() if ticket.items else []
            started = time.perf_counter()
            results = await self.answer(job, decoded, outputs)
        response = await self.respond(job, decoded, results)
        stages["encode"] = time.perf_counter() - started
        return response

    async def _timeout_seconds(self, request: Request, version: Version, body: Body) -> float:
        header = request.headers.get("x-timeout-ms")
        seconds = parse_timeout(header, version.manifest.deadline_seconds)
        return seconds if header is not None else seconds + await self.extra_seconds(version, body)

    def _choose(self, query: dict[str, str], body: Body, request: Request) -> tuple[Version, BaseModel]:
        model, number, parameters = parse_parameters(query, body.parameters, self.parameters)
        version = self._catalog.find(self.name, model, number)
        request.state.model, request.state.version = version.model, str(version.number)
        return version, parameters

    async def _parse(self, content: bytes, content_type: str) -> Body:
        if self.is_enveloped(content_type) and content:
            return await self.in_worker(self.parse, content, content_type)
        return self.parse(content, content_type)

    def _admit_quickly(self, job: Job) -> list[Decoded] | None:
        """Decode and submit a single small item right here; None where that is no small thing."""
        raws = job.body.raws
        if len(raws) != 1 or len(raws[0]) > job.version.task.quick_size:
            return None
        try:
            return self._decode_and_submit(job, _QUICK, on_loop=True)
        except TooLarge:  # of the quick limits; the real ones decide in a worker
            return None

    async def _admit_in_workers(self, job: Job, inside: contextlib.ExitStack) -> list[Decoded]:
        """Wait for the admission while somebody waits for the answer.

        Args:
            job: The request.
            inside: Its room and its permit, kept until the workers have let go of its body.
        """
        admission = asyncio.ensure_future(self._admit(job))
        try:
            return await job.ticket.unless_failed(admission)
        finally:
            if not admission.done():
                leave = inside.pop_all().close
                admission.add_done_callback(lambda _: leave())

    async def _admit(self, job: Job) -> list[Decoded]:
        """Decode every item in the workers, then submit them all, or raise for the first bad one."""
        count = len(job.body.raws)
        if count == 1:
            return await self.in_worker(self._decode_and_submit, job, self.limits)
        step = math.ceil(count / (_SHARES * self._worker_count))
        shares = [range(first, min(first + step, count)) for first in range(0, count, step)]
        results = await asyncio.gather(
            *(self.in_worker(self._decode_share, job, share) for share in shares), return_exceptions=True
        )
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
        if job.ticket.dropped or job.ticket.expired(time.monotonic()):
            raise DeadlineExceeded("the deadline passed before the item was decoded")
        body = job.body
        try:
            return job.version.task.decode(
                body.raws[index], limits, job.parameters, body.declared_types[index]
            )
        except RequestError as error:
            raise at_item(error, index) from error

    def _submit(self, job: Job, decoded: Sequence[Decoded], *, on_loop: bool = False) -> None:
        parts = [part for item in decoded for part in item.parts]
        job.ticket.fill(parts, [cost for item in decoded for cost in item.costs])
        if parts:  # silence makes none
            job.version.batcher.submit(job.ticket, on_loop=on_loop)

    async def answer(self, job: Job, decoded: Sequence[Decoded], outputs: Sequence[Outputs]) -> list[Result]:
        """Turn the outputs into one result an item; endpoints whose task is slow at it use a worker."""
        return answer_all(job, decoded, outputs)

    async def respond(self, job: Job, decoded: Sequence[Decoded], results: Sequence[Result]) -> Response:
        """Give the answer that all tasks share."""
        content = {
            "id": job.ticket.label,
            "model": job.version.model,
            "version": str(job.version.number),
            "task": self.name,
            "results": results,
        }
        return Response(
            orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json"
        )

    def in_worker(self, function: Callable[..., _Result], *arguments: object) -> Awaitable[_Result]:
        """Call a function on one of the decoding threads."""
        return asyncio.get_running_loop().run_in_executor(self._workers, function, *arguments)


def answer_all(job: Job, decoded: Sequence[Decoded], outputs: Sequence[Outputs]) -> list[Result]:
    """Hand each item its parts' outputs, in the request's order."""
    rest = iter(outputs)
    return [
        job.version.task.answer(list(itertools.islice(rest, len(item.parts))), item, job.parameters)
        for item in decoded
    ]


@contextlib.contextmanager
def _watched(receive: Receive, ticket: Ticket) -> Iterator[None]:
    """Drop the ticket as soon as its client hangs up, and close it in the end."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        ticket.abandon(ClientGone("the client hung up"), "gone")

    watchers: list[asyncio.Task[None]] = []
    loop = asyncio.get_running_loop()
    timer = loop.call_later(_WATCH_AFTER_SECONDS, lambda: watchers.append(loop.create_task(watch())))
    try:
        yield
    finally:
        timer.cancel()
        for watcher in watchers:
            watcher.cancel()
        ticket.close()
