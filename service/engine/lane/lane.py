"""A lane: it runs batches on one device, one at a time.

    choose a model (fair share, then deadline) ─▶ claim a batch ─▶ stage ─▶ run ─▶ split ─▶ settle
                                                                   └ raised: run halves of it again

A lane has one thread, or two where batches are copied to the device: then one copies while the other runs.
An exception that is not the batch's own ends the thread: its items fail at once, and a new thread takes over.
The lane knows only arrays and time; a model is a queue and a function that runs a batch.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

from service.engine.lane.device_turns import DeviceTurns
from service.engine.lane.failure_isolation import FailureIsolation, inference_failed
from service.engine.lane.lane_thread import LaneJob, LaneThread
from service.engine.lane.outputs import check_rows
from service.engine.lane.schedule import Placement, Schedule
from service.engine.observer import BatchReport, Observer
from service.engine.queue.batch import Batch
from service.engine.queue.batcher import Batcher
from service.engine.queue.pending_request import Settlement
from service.engine.runtime.run import Arrays, Run, Stage, Staged

_Result = TypeVar("_Result")

_FIRST_BACKOFF_SECONDS = 0.05

_log = logging.getLogger(__name__)


class Lane:
    """The threads of one device.

    Args:
        device: The device's name, for the observer.
        observer: Is told what happens.
        restart_limit: A thread that dies more often than this without running a batch ends the lane.
        threads: 1, or 2 where a batch is copied to the device while another one runs.
        clock: The time in seconds.

    Attributes:
        last_seen: When a thread last showed that it is alive, in clock seconds.
        gave_up: Whether threads died too often; nothing runs here any more.
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
        self._work_arrived = threading.Condition(self._lock)
        self._turns = DeviceTurns(self._lock, clock, overlapped=threads > 1)
        self._isolation = FailureIsolation(device, observer, self._run_again)
        self._jobs: deque[LaneJob] = deque()
        self._schedule: Schedule[Batcher] = Schedule()
        self._stopping = False
        self._threads = [LaneThread() for _ in range(threads)]
        for lane_thread in self._threads:
            lane_thread.thread = self._new_thread(lane_thread)
        observer.lane_added(device)

    @property
    def restarts(self) -> int:
        """Deaths in a row of the thread that has most."""
        return max(lane_thread.restarts for lane_thread in self._threads)

    @property
    def busy_since(self) -> float | None:
        """When the oldest unfinished batch was claimed, in clock seconds; None without one."""
        since = [lane_thread.busy_since for lane_thread in self._threads]
        return min((moment for moment in since if moment is not None), default=None)

    def start(self) -> None:
        """Start the threads."""
        for lane_thread in self._threads:
            lane_thread.thread.start()

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """Finish the claimed batches, refuse all other work and end the threads."""
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
            stage: Copies a batch to the device while another one may run; None where nothing is copied.
        """
        with self._lock:
            self._schedule.add(batcher, run, stage)
            batcher.lanes = (*batcher.lanes, self)
            self._work_arrived.notify_all()
        self._observer.model_placed(batcher.model, batcher.version, self.device)

    def detach(self, batcher: Batcher) -> None:
        """Stop serving a model."""
        with self._lock:
            self._schedule.remove(batcher)
            batcher.lanes = tuple(lane for lane in batcher.lanes if lane is not self)

    def wake(self) -> None:
        """Have a thread look for work."""
        with self._lock:
            self._work_arrived.notify()

    def delay(self, batcher: Batcher, work_seconds: float, deadline: float, now: float) -> float:
        """Predict the seconds before the lane does a model's work; see `Schedule.delay`."""
        return self._schedule.delay(batcher, work_seconds, deadline, now)

    def call(self, job: Callable[[], _Result]) -> Future[_Result]:
        """Run a function on one of the lane's threads between two batches.

        Returns:
            A future of its result; it fails with `LaneStopped` if the lane ends first.
        """
        return self._call(job, self._jobs)

    def call_each(self, job: Callable[[], _Result]) -> list[Future[_Result]]:
        """Run a function on each of the lane's threads; see `call`."""
        return [self._call(job, lane_thread.jobs) for lane_thread in self._threads]

    def request_heartbeat(self) -> None:
        """Have an idle thread show that it is alive, by moving `last_seen`."""
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
        self._work_arrived.notify_all()
        self._turns.wake_locked()

    def _new_thread(self, lane_thread: LaneThread) -> threading.Thread:
        name = f"lane-{self.device}"
        return threading.Thread(target=self._main, args=(lane_thread,), name=name, daemon=True)

    def _main(self, lane_thread: LaneThread) -> None:
        try:
            if lane_thread.restarts > 1:
                time.sleep(_FIRST_BACKOFF_SECONDS * 2 ** (lane_thread.restarts - 2))
            self.last_seen = self._clock()
            while self._work(lane_thread):
                pass
        except BaseException as death:
            self._die(lane_thread, death)

    def _work(self, lane_thread: LaneThread) -> bool:
        """Wait for a job or a batch and run it; return False if the thread is to end instead.

        A function of its own, so that a waiting thread holds no array of what it ran before.
        """
        work = self._next(lane_thread)
        self.last_seen = self._clock()
        if work is None:
            return False
        if isinstance(work, LaneJob):
            work.run(self._turns.lock)
        else:
            self._serve(lane_thread, work)
        del work  # the traceback of a job's exception leads to this frame, and the job to the exception
        return True

    def _next(self, lane_thread: LaneThread) -> LaneJob | Placement[Batcher] | None:
        """Wait for a job, or for a model with a batch to claim; return None when the lane ends."""
        with self._lock:
            while True:
                if self._stopping or self.gave_up:
                    return None
                if lane_thread.jobs or self._jobs:
                    return (lane_thread.jobs or self._jobs).popleft()
                if self._turns.wait_until_claimable(self._schedule):
                    continue
                placement, wait_seconds = self._schedule.pick(self._clock())
                if placement is not None:
                    self._turns.note_claim()
                    return placement
                self._work_arrived.wait(wait_seconds)

    def _serve(self, lane_thread: LaneThread, placement: Placement[Batcher]) -> None:
        """Claim a model's batch, run it and settle its items."""
        batcher, started = placement.queue, self._clock()
        batch = batcher.claim(self._schedule.patience(placement, started))
        if batch is None:
            self._turns.end_claim()
            return
        lane_thread.busy_since = started
        lane_thread.claimed = (batcher, batch.items)
        lane_thread.scheduled = placement
        self._schedule.began(started, batcher.expected_seconds(batch))
        settlements, ran_whole = self._run_batch(lane_thread, batch, placement)
        lane_thread.busy_since = lane_thread.claimed = None
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
        staged = _stage(placement.stage, batch)
        begun = self._clock()
        try:
            begun = self._run_in_turn(lane_thread, staged, batch.claimed)
            outputs = check_rows(staged.outputs(), len(items))
        except Exception as error:
            return self._isolation.isolate(placement, items, error), False
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
        return self._isolation.settle(batcher, items, outputs), True

    def _run_in_turn(self, lane_thread: LaneThread, staged: Staged, claimed: float) -> float:
        """Run a batch as soon as no other is on the device; return when it began, in clock seconds."""
        self._turns.note_staged(self._clock() - claimed)
        with self._turns.take(claimed, partial(self._end_turn, lane_thread)) as begun:
            self._turns.end_claim()
            staged.run()
        return begun

    def _end_turn(self, lane_thread: LaneThread, device_seconds: float) -> None:
        lane_thread.device_seconds = device_seconds
        placement, lane_thread.scheduled = lane_thread.scheduled, None
        if placement is not None:
            self._schedule.ended(placement, device_seconds, self._clock())
        self._turns.wake()

    def _run_again(self, placement: Placement[Batcher], arrays: Arrays) -> Arrays:
        """Run a part of a batch that failed."""
        with self._turns.take(self._clock(), partial(self._charge, placement)):
            return placement.run(arrays)

    def _charge(self, placement: Placement[Batcher], seconds: float) -> None:
        self._schedule.charge(placement, seconds, self._clock())

    def _die(self, lane_thread: LaneThread, death: BaseException) -> None:
        """Fail what the thread ran and start its successor, or end the lane."""
        _log.critical("lane %s died", self.device, exc_info=death)
        self._observer.lane_died(self.device, death)
        if lane_thread.claimed is not None:
            batcher, items = lane_thread.claimed
            batcher.settle(inference_failed(items))
        lane_thread.claimed = lane_thread.busy_since = None
        self._turns.end_claim()
        self._end_turn(lane_thread, 0.0)
        with self._lock:
            self.last_seen = -math.inf  # until a thread shows that it is alive
            lane_thread.restarts += 1
            self.gave_up = self.gave_up or lane_thread.restarts > self._restart_limit
            if not (self._stopping or self.gave_up):
                lane_thread.thread = self._new_thread(lane_thread)
                lane_thread.thread.start()
                return
            self._wake_all()
            jobs = self._take_jobs()
        self._end(jobs)

    def _end(self, jobs: list[LaneJob]) -> None:
        """Refuse jobs, and close the queues that no other lane serves."""
        for job in jobs:
            job.refuse(f"lane {self.device} is gone")
        for placement in self._schedule.placements:
            self.detach(placement.queue)
            if not placement.queue.lanes:
                placement.queue.close(f"lane {self.device} is gone")


def _stage(stage: Stage, batch: Batch) -> Staged:
    """Stage a batch; an error is raised when it would run, so that batches end in the order of claims."""
    try:
        return stage(batch.arrays())
    except Exception as error:
        return _NotStaged(error)


class _NotStaged:
    def __init__(self, error: Exception) -> None:
        self._error = error

    def run(self) -> None:
        try:
            raise self._error
        finally:
            del self._error  # this frame is in its traceback; a cycle would keep the batch's arrays

    def outputs(self) -> Arrays:
        raise AssertionError("a batch that was not staged never runs")
