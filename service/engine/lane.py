"""A lane: the one thread that runs batches on a device, and what happens when it goes wrong.

    pick a model (fair share, then deadline) ─▶ claim its batch ─▶ run ─▶ split ─▶ one wake-up
                                                                  └ raised: halve until the culprit is alone

An exception that is not the batch's own ends the thread: what it ran fails at once, and a new thread
takes over. The lane knows arrays and time only; models come to it as a batcher and a function to run.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from numpy.typing import NDArray

from service.engine.batch import Batch, stack
from service.engine.batcher import Batcher
from service.engine.observer import BatchReport, Observer
from service.engine.outputs import NotFinite, Run, WrongOutputs, checked_run, split
from service.engine.schedule import Placement, Schedule
from service.engine.ticket import Item, Settlement
from service.errors import InferenceFailed, KotaeError

_Result = TypeVar("_Result")

_FIRST_BACKOFF_SECONDS = 0.05
_FAILED_TEXT = "the inference failed; the request id finds the reason in the server's log"

_log = logging.getLogger(__name__)


class LaneStopped(KotaeError):
    """The lane takes no more work."""


class Lane:
    """One device's thread.

    Args:
        device: The device's name, for the observer.
        restart_limit: After this many deaths in a row, without a batch in between, the lane gives up.

    Attributes:
        restarts: Deaths in a row.
        last_seen: When the thread last showed that it lives, in clock seconds.
        busy_since: When the running batch began, or None.
        gave_up: Died too often; nothing runs here any more.
    """

    def __init__(
        self,
        device: str,
        observer: Observer,
        *,
        restart_limit: int = 5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.device = device
        self.restarts = 0
        self.last_seen = clock()
        self.busy_since: float | None = None
        self.gave_up = False
        self._observer = observer
        self._restart_limit = restart_limit
        self._clock = clock
        self._changed = threading.Condition()
        self._jobs: deque[tuple[Callable[[], None], Future[Any]]] = deque()
        self._schedule: Schedule[Batcher] = Schedule()
        self._running: tuple[Batcher, Sequence[Item]] | None = None
        self._stopping = False
        self._thread = self._new_thread()
        observer.lane_added(device)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """End the thread after the running batch."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            jobs, self._jobs = self._jobs, deque()
        for _, future in jobs:
            future.set_exception(LaneStopped(f"lane {self.device} takes no more work"))
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def attach(self, batcher: Batcher, run: Run) -> None:
        """Serve a model from now on."""
        with self._changed:
            self._schedule.add(batcher, run)
            batcher.lanes = (*batcher.lanes, self)
            self._changed.notify_all()

    def detach(self, batcher: Batcher) -> None:
        """Serve a model no more."""
        with self._changed:
            self._schedule.remove(batcher)
            batcher.lanes = tuple(lane for lane in batcher.lanes if lane is not self)

    def wake(self) -> None:
        """Tell the thread that there may be work."""
        with self._changed:
            self._changed.notify()

    def delay(self, batcher: Batcher, work_seconds: float, deadline: float, now: float) -> float:
        """Predict what keeps the lane from doing a model's work at once; see `Schedule.delay`."""
        return self._schedule.delay(batcher, work_seconds, deadline, now)

    def call(self, job: Callable[[], _Result]) -> Future[_Result]:
        """Run a function on the lane's thread between two batches.

        Returns:
            Its result or exception; `LaneStopped` if the lane ends first.
        """
        future: Future[_Result] = Future()

        def settle() -> None:
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)
                if not isinstance(error, Exception):
                    raise

        with self._changed:
            if self.gave_up or self._stopping:
                future.set_exception(LaneStopped(f"lane {self.device} takes no more work"))
                return future
            self._jobs.append((settle, future))
            self._changed.notify()
        return future

    def knock(self) -> None:
        """Ask an idle thread for a sign of life; `last_seen` moves when it answers."""
        if self.busy_since is None and not self._jobs:
            self.call(lambda: None)

    def _new_thread(self) -> threading.Thread:
        return threading.Thread(target=self._main, name=f"lane-{self.device}", daemon=True)

    def _main(self) -> None:
        try:
            if self.restarts > 1:
                time.sleep(_FIRST_BACKOFF_SECONDS * 2 ** (self.restarts - 2))
            self._loop()
        except BaseException as death:
            self._die(death)

    def _loop(self) -> None:
        self.last_seen = self._clock()
        while True:
            job, placement = self._next()
            self.last_seen = self._clock()
            if job is not None:
                job()
            elif placement is not None:
                self._serve(placement)
            else:
                return

    def _next(self) -> tuple[Callable[[], None] | None, Placement[Batcher] | None]:
        """Wait for a job or a claimable batch; neither means stop."""
        with self._changed:
            while True:
                if self._stopping:
                    return None, None
                if self._jobs:
                    return self._jobs.popleft()[0], None
                placement, wait_seconds = self._schedule.pick(self._clock())
                if placement is not None:
                    return None, placement
                self._changed.wait(wait_seconds)

    def _serve(self, placement: Placement[Batcher]) -> None:
        batcher = placement.queue
        started = self._clock()
        batch = batcher.claim()
        if batch is None:
            return
        self.busy_since = started
        self._running = (batcher, batch.items)
        self._schedule.began(started, batcher.expected_seconds(batch))
        ran_whole = False
        try:
            settlements, ran_whole = self._run_batch(placement, batch)
        finally:
            self.busy_since = None
            self._schedule.ended(placement, self._clock() - started, self._clock())
        self._running = None
        self.restarts = 0
        batcher.settle(settlements)
        seconds = self._clock() - started
        batcher.recycle(batch, seconds if ran_whole else None)
        self._observer.lane_busy(self.device, seconds)

    def _run_batch(self, placement: Placement[Batcher], batch: Batch) -> tuple[list[Settlement], bool]:
        """Run a batch.

        Returns:
            Every item's outcome, and whether the batch ran in one go.
        """
        items, batcher = batch.items, placement.queue
        arrays = batch.arrays()
        begun = self._clock()
        try:
            outputs = checked_run(placement.run, arrays, len(items))
        except Exception as error:
            self._report_failure(batcher, items, error)
            return self._isolate(placement, items, error), False
        finally:
            infer_seconds = self._clock() - begun
            for item in items:
                _note_times(item, batch, infer_seconds)
        self._observer.batch_done(
            BatchReport(
                model=batcher.model,
                version=batcher.version,
                device=self.device,
                items=len(items),
                padding_ratio=batch.padding_ratio,
                queue_seconds=tuple(batch.claimed - item.submitted for item in items),
                batch_seconds=begun - batch.claimed,
                infer_seconds=infer_seconds,
            )
        )
        return self._settle(batcher, items, outputs), True

    def _isolate(
        self, placement: Placement[Batcher], items: Sequence[Item], error: Exception
    ) -> list[Settlement]:
        """Halve a failed batch until the culprit stands alone; everybody else gets an answer."""
        if len(items) == 1 or isinstance(error, WrongOutputs):
            return [(item, InferenceFailed(_FAILED_TEXT)) for item in items]
        settlements: list[Settlement] = []
        middle = len(items) // 2
        for half in (items[:middle], items[middle:]):
            try:
                outputs = checked_run(placement.run, stack([item.inputs for item in half]), len(half))
            except Exception as again:
                self._report_failure(placement.queue, half, again)
                settlements += self._isolate(placement, half, again)
            else:
                settlements += self._settle(placement.queue, half, outputs)
        return settlements

    def _settle(
        self, batcher: Batcher, items: Sequence[Item], outputs: Mapping[str, NDArray[Any]]
    ) -> list[Settlement]:
        """Give each item its row; a row that is not finite is an error, never an answer."""
        settlements: list[Settlement] = []
        pairs, not_finite = split(items, outputs)
        settlements += pairs
        if not_finite:
            self._report_failure(batcher, not_finite, NotFinite("the graph gave NaN or infinity"))
            settlements += [(item, InferenceFailed(_FAILED_TEXT)) for item in not_finite]
        return settlements

    def _report_failure(self, batcher: Batcher, items: Sequence[Item], error: Exception) -> None:
        self._observer.batch_failed(batcher.model, batcher.version)
        _log.error(
            "%d items failed on %s for %s",
            len(items),
            self.device,
            batcher.model,
            exc_info=error,
            extra={"request_ids": sorted({item.ticket.label for item in items})},
        )

    def _die(self, death: BaseException) -> None:
        _log.critical("lane %s died", self.device, exc_info=death)
        self._observer.lane_died(self.device, death)
        if self._running is not None:
            batcher, items = self._running
            batcher.settle([(item, InferenceFailed(_FAILED_TEXT)) for item in items])
        with self._changed:
            self._running = None
            self.last_seen = -math.inf  # until the next thread shows that it lives
            self.restarts += 1
            self.gave_up = self.restarts > self._restart_limit
            if not (self._stopping or self.gave_up):
                self._thread = self._new_thread()
                self._thread.start()
                return
            batchers = [placement.queue for placement in self._schedule.placements]
            jobs, self._jobs = self._jobs, deque()
        for _, future in jobs:
            future.set_exception(LaneStopped(f"lane {self.device} is gone"))
        for batcher in batchers:
            self.detach(batcher)
            if not batcher.lanes:
                batcher.close(f"lane {self.device} is gone")


def _note_times(item: Item, batch: Batch, infer_seconds: float) -> None:
    for waiter in item.waiters():
        ticket = waiter.ticket
        ticket.queue_seconds = max(ticket.queue_seconds, batch.claimed - waiter.submitted)
        ticket.infer_seconds = max(ticket.infer_seconds, infer_seconds)
        ticket.batch_items = max(ticket.batch_items, len(batch.items))
