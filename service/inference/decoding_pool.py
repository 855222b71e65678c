"""The threads that decode: the most urgent request first, with a prediction of the waiting time."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from service.errors import DeadlineExceeded, Overloaded

_Result = TypeVar("_Result")

FIRST = 0  # before all priorities: work of admitted requests, and what must be known to refuse others
_SMOOTHING = 0.2
_MARGIN = 1.2  # decoding times vary, and admitted requests must not be late
_BATCHES = 2  # after decoding: the batch that runs, and the request's own


class DecodingPool:
    """Threads that run calls by priority. Its methods are called on the event loop.

    Args:
        count: How many threads.
        note_busy: Called, from any of the threads, with the seconds that each call took.

    Attributes:
        count: How many threads.
    """

    def __init__(self, count: int, note_busy: Callable[[float], None] = lambda _: None) -> None:
        self.count = count
        self._note_busy = note_busy
        self._threads = ThreadPoolExecutor(count, "decode")
        self._lock = threading.Lock()
        self._jobs: list[tuple[int, int, _Job]] = []
        self._numbers = itertools.count()
        self._unfinished = 0
        self._items: Counter[str] = Counter()
        self._ahead_seconds: dict[int, float] = {}
        self._item_seconds: dict[str, float] = {}
        self._run_seconds: dict[str, float] = {}

    def run(
        self,
        function: Callable[..., _Result],
        *arguments: object,
        priority: int = FIRST,
        kind: str = "",
        items: int = 1,
    ) -> asyncio.Future[_Result]:
        """Call a function on one of the threads.

        Args:
            function: What to call, with `arguments`.
            arguments: For it.
            priority: Lower numbers go first, equal ones in the order they came.
            kind: Calls of one kind take about as long: a model's name, for its decoding; else empty.
            items: How many times one call's work this is.
        """
        job = _Job(lambda: function(*arguments), priority, kind, items)
        with self._lock:
            job.expected_seconds = items * self._item_seconds.get(kind, 0.0)
            self._unfinished += 1
            self._items[kind] += items
            self._ahead_seconds[priority] = self._ahead_seconds.get(priority, 0.0) + job.expected_seconds
            heapq.heappush(self._jobs, (priority, next(self._numbers), job))
        self._threads.submit(self._run_next)
        return asyncio.wrap_future(job.future)

    def items(self, model: str) -> int:
        """Return how many items of a model are being decoded or wait for it."""
        return self._items[model]

    def check(self, model: str, priority: int, items: int, left_seconds: float) -> None:
        """Refuse a request that no thread would decode in time. A free thread refuses nothing.

        Args:
            model: Whose items they are.
            priority: 1 is highest; only what is as urgent stands before it.
            items: How many, at least.
            left_seconds: Until the request's deadline.

        Raises:
            Overloaded: It would be late.
        """
        with self._lock:
            if self._unfinished < self.count:
                return
            ahead = sum(seconds for level, seconds in self._ahead_seconds.items() if level <= priority)
            own = self._item_seconds.get(model, 0.0)
        waiting = ahead / self.count + max(own, items * own / self.count)
        late = _MARGIN * waiting + _BATCHES * self._run_seconds.get(model, 0.0) - left_seconds
        if late > 0 and ahead > 0:
            raise Overloaded(
                "it would not be decoded before its deadline", reason="decoding", retry_after_seconds=late
            )

    def note_run(self, model: str, seconds: float) -> None:
        """Learn how long a model's batches take: time that must be left after decoding."""
        known = self._run_seconds.get(model, seconds)
        self._run_seconds[model] = known + _SMOOTHING * (seconds - known)

    def shutdown(self) -> None:
        """Take no more work, and cancel what waits."""
        self._threads.shutdown(wait=False)
        with self._lock:
            jobs, self._jobs = self._jobs, []
        for _, _, job in jobs:
            job.future.cancel()

    def _run_next(self) -> None:
        with self._lock:
            if not self._jobs:
                return
            _, _, job = heapq.heappop(self._jobs)
        if not job.future.set_running_or_notify_cancel():
            self._finish(job, None)
            return
        started = time.perf_counter()
        error: BaseException | None = None
        result: Any = None
        try:
            result = job.call()
        except BaseException as raised:  # whatever it is, it belongs to whoever waits
            error = raised
        seconds = time.perf_counter() - started
        self._note_busy(seconds)
        self._finish(job, seconds if error is None else None)
        if error is None:
            job.future.set_result(result)
        else:
            job.future.set_exception(error)
            del error, job  # the error refers to this frame

    def _finish(self, job: _Job, seconds: float | None) -> None:
        """Forget a job, and learn its time if it succeeded."""
        with self._lock:
            self._unfinished -= 1
            self._items[job.kind] -= job.items
            self._ahead_seconds[job.priority] -= job.expected_seconds
            if not self._unfinished:
                self._ahead_seconds.clear()  # and what rounding left
            if job.kind and seconds is not None:
                each = seconds / job.items
                known = self._item_seconds.get(job.kind, each)
                self._item_seconds[job.kind] = known + _SMOOTHING * (each - known)


async def before(deadline: float, result: Awaitable[_Result], late: str) -> _Result:
    """Wait for a result until a deadline; work that has not begun by then is cancelled.

    Args:
        deadline: In `time.monotonic()` seconds.
        result: What to wait for.
        late: The message for a client whose deadline passed.

    Raises:
        DeadlineExceeded: It was not there in time.
    """
    try:
        return await asyncio.wait_for(result, deadline - time.monotonic())
    except TimeoutError as error:
        raise DeadlineExceeded(late) from error


class _Job:
    """One call and its future."""

    __slots__ = ("call", "expected_seconds", "future", "items", "kind", "priority")

    def __init__(self, call: Callable[[], Any], priority: int, kind: str, items: int) -> None:
        self.call = call
        self.priority = priority
        self.kind = kind
        self.items = items
        self.expected_seconds = 0.0
        self.future: Future[Any] = Future()
