"""The core: a typed request in, a typed answer or a typed error out.

    prepare: find the version, refuse early ─▶ decode (threads) ─▶ queue … lane ─▶ answer

Every way into the service calls this and nothing below it. A request of several items is one whole: the
first bad item is named in the error, and nothing of the request runs.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from pydantic import BaseModel

from service.engine.queue.pending_request import PendingRequest
from service.errors import DeadlineExceeded, InvalidInput, NotReady, RequestError, TooLarge
from service.inference.decoding_pool import DecodingPool, before
from service.inference.load_shedding import LoadShedding, loop_wait_seconds
from service.inference.request import InferenceAnswer, InferenceRequest
from service.inference.tensors import decode_tensors
from service.repository.catalog import Catalog
from service.repository.loader import Version
from service.tasks import Decoded, Limits
from service.tasks.task import Outputs, Result

Watch = Callable[[PendingRequest], AbstractContextManager[object]]

# What the event loop decodes itself, because waking a thread and coming back takes longer.
_INLINE = Limits(max_pixels=2**16)
_CHUNKS_A_THREAD = 4  # parts of a large request for each decoding thread, so that none gets all of it


async def _at_once() -> None:
    """Do not wait: the engine is in this process, and the items are there."""


class InferenceCore:
    """Answer requests for all models. Belongs to the event loop.

    Args:
        catalog: The models.
        pool: The threads that decode.
        limits: Bounds on what one item may unpack to.
        is_open: Returns False once new work is refused, at the end of a drain.
        engine_ready: Waits, not for ever, while an engine in another process restarts.

    Attributes:
        pool: The threads that decode; callers use them for their own slow work.
        shedding: The checks before decoding.
        limits: Bounds on what one item may unpack to.
    """

    def __init__(
        self,
        catalog: Catalog,
        pool: DecodingPool,
        limits: Limits,
        is_open: Callable[[], bool] = lambda: True,
        engine_ready: Callable[[], Awaitable[None]] = _at_once,
    ) -> None:
        self.pool = pool
        self.shedding = LoadShedding(pool)
        self._catalog = catalog
        self.limits = limits
        self._is_open = is_open
        self._engine_ready = engine_ready

    async def ready(self) -> None:
        """Wait while an engine in another process restarts.

        Raises:
            NotReady: The server takes no more work.
        """
        if not self._is_open():
            raise NotReady("the server is shutting down", retry_after_seconds=1)
        await self._engine_ready()

    def prepare(self, request: InferenceRequest) -> Version:
        """Find the version that answers, and refuse a request that would be late. The items are not needed.

        Returns:
            The version, which is also the request's `target` from now on.

        Raises:
            NotFound, NotReady: No such version answers.
            Overloaded: It would be late.
        """
        version = self._catalog.find(request.task, request.model, request.version)
        request.target = version
        if request.timeout_seconds is not None or version.task.stated_seconds is None:
            self.shedding.check(request, request.received + _timeout_of(request, version))
        return version

    async def infer(
        self,
        request: InferenceRequest,
        receive_items: Callable[[], Awaitable[None]] = _at_once,
        watch: Watch = nullcontext,
    ) -> InferenceAnswer:
        """Answer a request.

        Args:
            request: With its items, or without.
            receive_items: Awaited once the request is not refused early: sets the items, where they are not
                there yet, and raises for what the caller cannot answer.
            watch: Called with the pending request. While the returned block lasts it may abandon it, because
                nobody waits any more.

        Raises:
            RequestError: Any of them, except those of a transport.
        """
        version = self.prepare(request)
        await receive_items()
        if not request.items:
            raise InvalidInput("the request holds no item", param="inputs")
        started = time.perf_counter()
        if request.parameters is None:
            request.parameters = version.task.parameters()
        deadline = request.received + await self._seconds_allowed(request, version)
        pending = PendingRequest(deadline=deadline, label=request.request_id, priority=request.priority)
        request.pending = pending
        visit = self.shedding.loop_load.begin()
        lane_seconds: float | None = None
        try:
            with watch(pending):
                decoded = await self._admit(request, pending)
                request.decode_seconds = time.perf_counter() - started
                if self._is_inline(request, version):
                    lane_seconds = version.batcher.predicted_answer_seconds
                outputs = await pending.outputs() if pending.items else []  # silence makes no items
        finally:
            waited = None
            if lane_seconds is not None:
                waited = loop_wait_seconds(pending, time.perf_counter() - started, lane_seconds)
            self.shedding.loop_load.end(visit, waited)
            request.item_count = len(pending.items)
            pending.close()
            pending.items = ()  # items refer to their request: without this both wait for the collector
        if pending.infer_seconds:  # an answer from the cache says nothing of the model's time
            self.pool.note_run(version.model, pending.infer_seconds)
        return await self._answer(request, version, decoded, outputs)

    async def _seconds_allowed(self, request: InferenceRequest, version: Version) -> float:
        """Return the time until the deadline; by default it grows with the length that recordings state.

        A header that states too much gains no more than the longest recording would, which a caller may ask
        for anyway.
        """
        timeout = _timeout_of(request, version)
        if request.timeout_seconds is not None or version.task.stated_seconds is None:
            return timeout
        stated = self.pool.run(_stated_seconds, version, request.items, self.limits.max_audio_seconds)
        late = "the deadline passed before the recording was looked at"
        seconds = await before(time.monotonic() + timeout, stated, late)
        return timeout + version.manifest.deadline_per_second * seconds

    async def _admit(self, request: InferenceRequest, pending: PendingRequest) -> list[Decoded]:
        """Decode and submit: on the event loop if that is a small thing, else in the decoding threads."""
        version = request.target
        assert version is not None, "the request was prepared"
        self.shedding.check_queue(request, pending.deadline)
        if self._is_inline(request, version):
            try:
                decoded = [self._decode(request, pending, 0, _INLINE)]
                self._submit(version, pending, decoded, on_loop=True)
                return decoded
            except TooLarge:  # of the limits for the loop; the real ones decide in a thread
                pass
        left = pending.deadline - time.monotonic()
        self.pool.check(version.model, pending.priority, len(request.items), left)
        admission = asyncio.ensure_future(self._admit_in_threads(request, version, pending))
        try:
            return await pending.unless_failed(admission)
        finally:
            if not admission.done():  # the caller is answered, and threads still read the items
                request.unfinished = admission
                admission.add_done_callback(lambda _: setattr(request, "unfinished", None))
            del admission  # its exception refers to this frame

    def _is_inline(self, request: InferenceRequest, version: Version) -> bool:
        if len(request.items) != 1:
            return False
        item = request.items[0]
        return isinstance(item, Mapping) or len(item) <= version.task.quick_size

    async def _admit_in_threads(
        self, request: InferenceRequest, version: Version, pending: PendingRequest
    ) -> list[Decoded]:
        """Decode every item in the threads, then submit them all, or raise for the first bad one."""
        count, pool = len(request.items), self.pool
        step = math.ceil(count / (_CHUNKS_A_THREAD * pool.count))
        chunks = [range(first, min(first + step, count)) for first in range(0, count, step)]
        parts = (
            pool.run(
                self._decode_chunk,
                request,
                pending,
                chunk,
                kind=version.model,
                priority=pending.priority,
                items=len(chunk),
            )
            for chunk in chunks
        )
        decoded = _all_decoded(await asyncio.gather(*parts, return_exceptions=True))
        await pool.run(self._submit, version, pending, decoded)
        return decoded

    def _decode_chunk(
        self, request: InferenceRequest, pending: PendingRequest, chunk: range
    ) -> list[Decoded]:
        return [self._decode(request, pending, index, self.limits) for index in chunk]

    def _decode(
        self, request: InferenceRequest, pending: PendingRequest, index: int, limits: Limits
    ) -> Decoded:
        """Decode one item.

        Raises:
            DeadlineExceeded: Nobody waits for it any more.
            TooLarge: The request's recordings are too long in all. A file of a kilobyte may hold an hour.
            InvalidInput, UnsupportedMedia: It is not what the task takes.
        """
        if pending.dropped or pending.expired(time.monotonic()):
            raise DeadlineExceeded("the deadline passed before the item was decoded")
        version, item = request.target, request.items[index]
        assert version is not None and request.parameters is not None, "the request was prepared"
        try:
            if isinstance(item, Mapping):
                return decode_tensors(item, version)
            media_type = request.media_types[index] if request.media_types else ""
            decoded = version.task.decode(item, limits, request.parameters, media_type)
        except RequestError as error:
            # Without its traceback, whose frames hold what was decoded so far: 115 MB of an hour of sound.
            raise error.with_traceback(None).at_item(index) from error
        request.audio_seconds.append(decoded.seconds)
        if sum(request.audio_seconds) > limits.max_audio_seconds:
            raise TooLarge(
                f"the recordings are longer than {limits.max_audio_seconds:g} seconds in all, "
                "which is the limit of a request",
                param="inputs",
            )
        return decoded

    def _submit(
        self, version: Version, pending: PendingRequest, decoded: Sequence[Decoded], *, on_loop: bool = False
    ) -> None:
        parts = [part for item in decoded for part in item.parts]
        pending.fill(parts, [cost for item in decoded for cost in item.costs])
        if parts:
            version.batcher.submit(pending, on_loop=on_loop)

    async def _answer(
        self,
        request: InferenceRequest,
        version: Version,
        decoded: Sequence[Decoded],
        outputs: Sequence[Outputs],
    ) -> InferenceAnswer:
        """Turn the outputs into one result an item; in a thread where that takes long."""
        costs = [sum(item.costs) for item in decoded]
        if isinstance(request.items[0], Mapping):
            return InferenceAnswer(version, outputs=outputs, costs=costs)
        parameters = request.parameters
        assert parameters is not None and request.pending is not None, "the request was admitted"
        rest = iter(outputs)
        parts = [list(itertools.islice(rest, len(item.parts))) for item in decoded]
        if version.task.stated_seconds is None:
            return InferenceAnswer(version, _results(version, parameters, decoded, parts), costs=costs)
        decoded = [replace(item, parts=()) for item in decoded]  # an hour of samples is not needed any more
        kind = f"{version.model} answers"
        answered = self.pool.run(_results, version, parameters, decoded, parts, kind=kind)
        late = "the deadline passed before the words were found"
        return InferenceAnswer(version, await before(request.pending.deadline, answered, late), costs=costs)


def _all_decoded(results: list[list[Decoded] | BaseException]) -> list[Decoded]:
    """Join the chunks, or raise the first error."""
    decoded: list[Decoded] = []
    try:
        for result in results:
            if isinstance(result, BaseException):
                raise result
            decoded += result
        return decoded
    finally:
        del results, result  # an exception refers to this frame


def _results(
    version: Version,
    parameters: BaseModel,
    decoded: Sequence[Decoded],
    parts: Sequence[Sequence[Outputs]],
) -> list[Result]:
    return [
        version.task.answer(outputs, item, parameters) for item, outputs in zip(decoded, parts, strict=True)
    ]


def _timeout_of(request: InferenceRequest, version: Version) -> float:
    return version.manifest.deadline_seconds if request.timeout_seconds is None else request.timeout_seconds


def _stated_seconds(version: Version, items: Sequence[object], most: float) -> float:
    stated = version.task.stated_seconds
    assert stated is not None, "only recordings state their length"
    return min(most, sum(stated(item) for item in items if isinstance(item, bytes)))
