"""A lane: what runs batches on a device, one at a time, and what happens when it goes wrong.

    pick a model (fair share, then deadline) ─▶ claim its batch ─▶ stage ─▶ run ─▶ split ─▶ one wake-up
                                                                   └ raised: halve until the culprit is alone

A CPU's lane has one thread. A GPU's has two: while one runs its batch, the other claims and copies the
next, as late as it can (`stage_timing`). An exception that is not the batch's own ends the thread: what it
ran fails at once, and a new thread takes over. The lane knows arrays and time only; models come to it as a
batcher and a function to run.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

from service.engine.lane.lane_thread import LaneJob, LaneThread
from service.engine.lane.schedule import Placement, Schedule
from service.engine.lane.stage_timing import StageTiming
from service.engine.observer import BatchReport, Observer
from service.engine.queue.batch import Batch, padded_cost, stack
from service.engine.queue.batcher import Batcher
from service.engine.queue.pending_request import Item, Settlement
from service.engine.runtime.memory import OutOfMemory
from service.engine.runtime.outputs import (
    Arrays,
    NotFinite,
    Run,
    Stage,
    Staged,
    WrongOutputs,
    attempt,
    checked,
    split,
)
from service.errors import InferenceFailed

_Result = TypeVar("_Result")

_FIRST_BACKOFF_SECONDS = 0.05
_FAILED_TEXT = "the inference failed; the request id finds the reason in the server's log"

_log = logging.getLogger(__name__)


class Lane:
    """One device's thread, or two.

    Args:
        device: The device's name, for the observer.
        restart_limit: After this many deaths in a row, without a batch in between, the lane gives up.
        threads: Threads: 2 where a batch is copied to the device while another runs.

    Attributes:
        last_seen: When a thread last showed that it lives, in clock seconds.
        gave_up: Died too often; nothing runs here any more.
    """

    def __init__(
        self,
        device: str,
        observer: Observer,
        *,
        restart_limit: int = 5,
        threads: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.device = device
        self.last_seen = clock()
        self.gave_up = False
        self._observer = observer
        self._restart_limit = restart_limit
        self._clock = clock
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)  # there may be work
        self._later = threading.Condition(self._lock)  # a claim may have stopped being premature
        self._device = threading.Lock()
        self._freed_at = -math.inf
        self._timing = StageTiming()
        self._jobs: deque[LaneJob] = deque()
        self._schedule: Schedule[Batcher] = Schedule()
        self._stopping = False
        self._threads = [LaneThread() for _ in range(threads)]
        for lane_thread in self._threads:
            lane_thread.thread = self._new_thread(lane_thread)
        observer.lane_added(device)

    @property
    def restarts(self) -> int:
        """Deaths in a row, of the thread that has most."""
        return max(lane_thread.restarts for lane_thread in self._threads)

    @property
    def busy_since(self) -> float | None:
        """When the oldest batch that is not done was claimed; None without one."""
        since = [lane_thread.busy_since for lane_thread in self._threads]
        return min((moment for moment in since if moment is not None), default=None)

    def start(self) -> None:
        """Start the threads."""
        for lane_thread in self._threads:
            lane_thread.thread.start()

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """End the threads after the running batch."""
        with self._lock:
            self._stopping = True
            self._wake_all()
            jobs = self._take_jobs()
        for job in jobs:
            job.refuse(f"lane {self.device} takes no more work")
        for thread in [lane_thread.thread for lane_thread in self._threads if lane_thread.thread.is_alive()]:
            thread.join(timeout_seconds)

    def attach(self, batcher: Batcher, run: Run, stage: Stage | None = None) -> None:
        """Serve a model from now on.

        Args:
            batcher: Its queue.
            run: Runs a batch.
            stage: Brings a batch to the device while another may run; None where nothing is copied.
        """
        with self._lock:
            self._schedule.add(batcher, run, stage)
            batcher.lanes = (*batcher.lanes, self)
            self._changed.notify_all()
        self._observer.model_placed(batcher.model, batcher.version, self.device)

    def detach(self, batcher: Batcher) -> None:
        """Serve a model no more."""
        with self._lock:
            self._schedule.remove(batcher)
            batcher.lanes = tuple(lane for lane in batcher.lanes if lane is not self)

    def wake(self) -> None:
        """Tell the threads that there may be work."""
        with self._lock:
            self._changed.notify()

    def delay(self, batcher: Batcher, work_seconds: float, deadline: float, now: float) -> float:
        """Predict what keeps the lane from doing a model's work at once; see `Schedule.delay`."""
        return self._schedule.delay(batcher, work_seconds, deadline, now)

    def call(self, job: Callable[[], _Result]) -> Future[_Result]:
        """Run a function on one of the lane's threads between two batches.

        Returns:
            Its result or exception; `LaneStopped` if the lane ends first.
        """
        return self._call(job, self._jobs)

    def call_each(self, job: Callable[[], _Result]) -> list[Future[_Result]]:
        """Run a function on each of the lane's threads; see `call`."""
        return [self._call(job, lane_thread.jobs) for lane_thread in self._threads]

    def knock(self) -> None:
        """Ask an idle thread for a sign of life; `last_seen` moves when it answers."""
        if self.busy_since is None and not self._jobs:
            self.call(lambda: None)

    def _call(self, function: Callable[[], _Result], jobs: deque[LaneJob]) -> Future[_Result]:
        job = LaneJob(function)
        with self._lock:
            if self.gave_up or self._stopping:
                job.refuse(f"lane {self.device} takes no more work")
            else:
                jobs.append(job)
                self._wake_all()
        return job.future

    def _take_jobs(self) -> list[LaneJob]:
        taken: list[LaneJob] = []
        for jobs in (self._jobs, *(lane_thread.jobs for lane_thread in self._threads)):
            taken += jobs
            jobs.clear()
        return taken

    def _wake_all(self) -> None:
        self._changed.notify_all()
        self._later.notify_all()

    def _new_thread(self, lane_thread: LaneThread) -> threading.Thread:
        return threading.Thread(
            target=self._main, args=(lane_thread,), name=f"lane-{self.device}", daemon=True
        )

    def _main(self, lane_thread: LaneThread) -> None:
        try:
            if lane_thread.restarts > 1:
                time.sleep(_FIRST_BACKOFF_SECONDS * 2 ** (lane_thread.restarts - 2))
            self._loop(lane_thread)
        except BaseException as death:
            self._die(lane_thread, death)

    def _loop(self, lane_thread: LaneThread) -> None:
        self.last_seen = self._clock()
        while True:
            job, placement = self._next(lane_thread)
            self.last_seen = self._clock()
            if job is not None:
                job.run(self._device)
            elif placement is not None:
                self._serve(lane_thread, placement)
            else:
                return

    def _next(self, lane_thread: LaneThread) -> tuple[LaneJob | None, Placement[Batcher] | None]:
        """Wait for a job or a claimable batch; neither means stop."""
        schedule = self._schedule
        with self._lock:
            while True:
                if self._stopping or self.gave_up:
                    return None, None
                if lane_thread.jobs or self._jobs:
                    return (lane_thread.jobs or self._jobs).popleft(), None
                now = self._clock()
                premature = self._timing.premature_seconds(now, schedule.frees_at, schedule.running_seconds)
                if premature > 0:
                    self._later.wait(None if premature == math.inf else premature)
                    continue
                placement, wait_seconds = schedule.pick(now)
                if placement is not None:
                    self._timing.staging = len(self._threads) > 1
                    return None, placement
                self._changed.wait(wait_seconds)

    def _serve(self, lane_thread: LaneThread, placement: Placement[Batcher]) -> None:
        batcher = placement.queue
        started = self._clock()
        batch = batcher.claim(self._schedule.patience(placement, started))
        if batch is None:
            self._let_claim(staged=True)
            return
        lane_thread.busy_since = started
        lane_thread.running = (batcher, batch.items)
        lane_thread.under_way = placement
        self._schedule.began(started, batcher.expected_seconds(batch))
        settlements, ran_whole = self._run_batch(lane_thread, batch, placement)
        lane_thread.busy_since = lane_thread.running = None
        lane_thread.restarts = 0
        batcher.settle(settlements)
        seconds = self._clock() - started if len(self._threads) == 1 else lane_thread.device_seconds
        batcher.recycle(batch, seconds if ran_whole else None)
        self._observer.lane_busy(self.device, seconds)

    def _run_batch(
        self, lane_thread: LaneThread, batch: Batch, placement: Placement[Batcher]
    ) -> tuple[list[Settlement], bool]:
        """Run a batch.

        Returns:
            Every item's outcome, and whether the batch ran in one go.
        """
        items, batcher = batch.items, placement.queue
        staged = attempt(placement.stage, batch.arrays)
        begun = self._clock()
        try:
            begun = self._run_in_turn(lane_thread, staged, batch.claimed)
            outputs = checked(staged.outputs(), len(items))
        except Exception as error:
            self._report_failure(batcher, items, error)
            return self._isolate(placement, items, error), False
        finally:
            infer_seconds = self._clock() - begun
            batch.note_times(infer_seconds)
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

    def _run_in_turn(self, lane_thread: LaneThread, staged: Staged, claimed: float) -> float:
        """Run a batch as soon as no other is on the device.

        Returns:
            When it began, in clock seconds.
        """
        if len(self._threads) > 1:
            self._timing.copied(self._clock() - claimed)
        with self._device:
            begun, since = self._clock(), max(claimed, self._freed_at)
            self._let_claim(staged=True)
            try:
                staged.run()
            finally:
                self._freed_at = self._clock()
                lane_thread.device_seconds = self._freed_at - since
                self._ended(lane_thread, lane_thread.device_seconds)
        return begun

    def _let_claim(self, *, staged: bool = False) -> None:
        """Have the other lane_thread see whether it is time to claim.

        Args:
            staged: Whether the batch that was staged is so no more.
        """
        if len(self._threads) > 1:
            with self._lock:
                self._timing.staging = self._timing.staging and not staged
                self._later.notify_all()

    def _ended(self, lane_thread: LaneThread, seconds: float) -> None:
        placement, lane_thread.under_way = lane_thread.under_way, None
        if placement is not None:
            self._schedule.ended(placement, seconds, self._clock())
        self._let_claim()

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
                outputs = checked(self._run_again(placement, half), len(half))
            except Exception as again:
                self._report_failure(placement.queue, half, again)
                settlements += self._isolate(placement, half, again)
            else:
                settlements += self._settle(placement.queue, half, outputs)
        return settlements

    def _run_again(self, placement: Placement[Batcher], items: Sequence[Item]) -> Arrays:
        arrays = stack([item.inputs for item in items])
        with self._device:
            begun = self._clock()
            try:
                return placement.run(arrays)
            finally:
                self._freed_at = self._clock()
                self._schedule.charge(placement, self._freed_at - begun, self._freed_at)

    def _settle(self, batcher: Batcher, items: Sequence[Item], outputs: Arrays) -> list[Settlement]:
        """Give each item its row; a row that is not finite is an error, never an answer."""
        pairs, not_finite = split(items, outputs)
        settlements: list[Settlement] = [*pairs]
        if not_finite:
            self._report_failure(batcher, not_finite, NotFinite("the graph gave NaN or infinity"))
            settlements += [(item, InferenceFailed(_FAILED_TEXT)) for item in not_finite]
        return settlements

    def _report_failure(self, batcher: Batcher, items: Sequence[Item], error: Exception) -> None:
        if isinstance(error, OutOfMemory):
            self._observer.out_of_memory(batcher.model, batcher.version, self.device)
            batcher.note_out_of_memory(padded_cost(items))
            if len(items) > 1:
                told = (len(items), batcher.model, self.device, error)
                _log.warning("%d items of %s do not fit %s, and are halved: %s", *told)
                return
        self._observer.batch_failed(batcher.model, batcher.version)
        _log.error(
            "%d items failed on %s for %s",
            len(items),
            self.device,
            batcher.model,
            exc_info=error,
            extra={"request_ids": sorted({item.pending.label for item in items})},
        )

    def _die(self, lane_thread: LaneThread, death: BaseException) -> None:
        _log.critical("lane %s died", self.device, exc_info=death)
        self._observer.lane_died(self.device, death)
        if lane_thread.running is not None:
            batcher, items = lane_thread.running
            batcher.settle([(item, InferenceFailed(_FAILED_TEXT)) for item in items])
        lane_thread.running = lane_thread.busy_since = None
        self._let_claim(staged=True)
        self._ended(lane_thread, 0.0)
        with self._lock:
            self.last_seen = -math.inf  # until a thread shows that it lives
            lane_thread.restarts += 1
            self.gave_up = self.gave_up or lane_thread.restarts > self._restart_limit
            if not (self._stopping or self.gave_up):
                lane_thread.thread = self._new_thread(lane_thread)
                lane_thread.thread.start()
                return
            self._wake_all()
            batchers = [placement.queue for placement in self._schedule.placements]
            jobs = self._take_jobs()
        for job in jobs:
            job.refuse(f"lane {self.device} is gone")
        for batcher in batchers:
            self.detach(batcher)
            if not batcher.lanes:
                batcher.close(f"lane {self.device} is gone")
