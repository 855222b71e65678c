"""A lane: what runs batches on a device, one at a time, and what happens when it goes wrong.

    pick a model (fair share, then deadline) ─▶ claim its batch ─▶ stage ─▶ run ─▶ split ─▶ one wake-up
                                                                   └ raised: halve until the culprit is alone

The threads that do it are the lane's hands. A CPU's lane has one. A GPU's has two: while one runs its batch,
the other claims and copies the next, as late as it can (`engine/turns.py`). An exception that is not the
batch's own ends the hand's thread: what it ran fails at once, and a new thread takes over. The lane knows
arrays and time only; models come to it as a batcher and a function to run.
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

from service.engine.batch import Batch, padded_cost, stack
from service.engine.batcher import Batcher
from service.engine.hands import Hand, Job
from service.engine.memory import OutOfMemory
from service.engine.observer import BatchReport, Observer
from service.engine.outputs import (
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
from service.engine.schedule import Placement, Schedule
from service.engine.ticket import Item, Settlement
from service.engine.turns import Turns
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
        hands: Threads: 2 where a batch is copied to the device while another runs.

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
        hands: int = 1,
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
        self._turns = Turns()
        self._jobs: deque[Job] = deque()
        self._schedule: Schedule[Batcher] = Schedule()
        self._stopping = False
        self._hands = [Hand() for _ in range(hands)]
        for hand in self._hands:
            hand.thread = self._new_thread(hand)
        observer.lane_added(device)

    @property
    def restarts(self) -> int:
        """Deaths in a row, of the thread that has most."""
        return max(hand.restarts for hand in self._hands)

    @property
    def busy_since(self) -> float | None:
        """When the oldest batch that is not done was claimed; None without one."""
        since = [hand.busy_since for hand in self._hands]
        return min((moment for moment in since if moment is not None), default=None)

    def start(self) -> None:
        """Start the threads."""
        for hand in self._hands:
            hand.thread.start()

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """End the threads after the running batch."""
        with self._lock:
            self._stopping = True
            self._wake_all()
            jobs = self._take_jobs()
        for job in jobs:
            job.refuse(f"lane {self.device} takes no more work")
        for thread in [hand.thread for hand in self._hands if hand.thread.is_alive()]:
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
        return [self._call(job, hand.jobs) for hand in self._hands]

    def knock(self) -> None:
        """Ask an idle thread for a sign of life; `last_seen` moves when it answers."""
        if self.busy_since is None and not self._jobs:
            self.call(lambda: None)

    def _call(self, function: Callable[[], _Result], jobs: deque[Job]) -> Future[_Result]:
        job = Job(function)
        with self._lock:
            if self.gave_up or self._stopping:
                job.refuse(f"lane {self.device} takes no more work")
            else:
                jobs.append(job)
                self._wake_all()
        return job.future

    def _take_jobs(self) -> list[Job]:
        taken: list[Job] = []
        for jobs in (self._jobs, *(hand.jobs for hand in self._hands)):
            taken += jobs
            jobs.clear()
        return taken

    def _wake_all(self) -> None:
        self._changed.notify_all()
        self._later.notify_all()

    def _new_thread(self, hand: Hand) -> threading.Thread:
        return threading.Thread(target=self._main, args=(hand,), name=f"lane-{self.device}", daemon=True)

    def _main(self, hand: Hand) -> None:
        try:
            if hand.restarts > 1:
                time.sleep(_FIRST_BACKOFF_SECONDS * 2 ** (hand.restarts - 2))
            self._loop(hand)
        except BaseException as death:
            self._die(hand, death)

    def _loop(self, hand: Hand) -> None:
        self.last_seen = self._clock()
        while True:
            job, placement = self._next(hand)
            self.last_seen = self._clock()
            if job is not None:
                job.run(self._device)
            elif placement is not None:
                self._serve(hand, placement)
            else:
                return

    def _next(self, hand: Hand) -> tuple[Job | None, Placement[Batcher] | None]:
        """Wait for a job or a claimable batch; neither means stop."""
        schedule = self._schedule
        with self._lock:
            while True:
                if self._stopping or self.gave_up:
                    return None, None
                if hand.jobs or self._jobs:
                    return (hand.jobs or self._jobs).popleft(), None
                now = self._clock()
                premature = self._turns.premature_seconds(now, schedule.frees_at, schedule.running_seconds)
                if premature > 0:
                    self._later.wait(None if premature == math.inf else premature)
                    continue
                placement, wait_seconds = schedule.pick(now)
                if placement is not None:
                    self._turns.staging = len(self._hands) > 1
                    return None, placement
                self._changed.wait(wait_seconds)

    def _serve(self, hand: Hand, placement: Placement[Batcher]) -> None:
        batcher = placement.queue
        started = self._clock()
        batch = batcher.claim(self._schedule.patience(placement, started))
        if batch is None:
            self._let_claim(staged=True)
            return
        hand.busy_since = started
        hand.running = (batcher, batch.items)
        hand.under_way = placement
        self._schedule.began(started, batcher.expected_seconds(batch))
        settlements, ran_whole = self._run_batch(hand, batch, placement)
        hand.busy_since = hand.running = None
        hand.restarts = 0
        batcher.settle(settlements)
        seconds = self._clock() - started if len(self._hands) == 1 else hand.device_seconds
        batcher.recycle(batch, seconds if ran_whole else None)
        self._observer.lane_busy(self.device, seconds)

    def _run_batch(
        self, hand: Hand, batch: Batch, placement: Placement[Batcher]
    ) -> tuple[list[Settlement], bool]:
        """Run a batch.

        Returns:
            Every item's outcome, and whether the batch ran in one go.
        """
        items, batcher = batch.items, placement.queue
        staged = attempt(placement.stage, batch.arrays)
        begun = self._clock()
        try:
            begun = self._run_in_turn(hand, staged, batch.claimed)
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

    def _run_in_turn(self, hand: Hand, staged: Staged, claimed: float) -> float:
        """Run a batch as soon as no other is on the device.

        Returns:
            When it began, in clock seconds.
        """
        if len(self._hands) > 1:
            self._turns.copied(self._clock() - claimed)
        with self._device:
            begun, since = self._clock(), max(claimed, self._freed_at)
            self._let_claim(staged=True)
            try:
                staged.run()
            finally:
                self._freed_at = self._clock()
                hand.device_seconds = self._freed_at - since
                self._ended(hand, hand.device_seconds)
        return begun

    def _let_claim(self, *, staged: bool = False) -> None:
        """Have the other hand see whether it is time to claim.

        Args:
            staged: Whether the batch that was staged is so no more.
        """
        if len(self._hands) > 1:
            with self._lock:
                self._turns.staging = self._turns.staging and not staged
                self._later.notify_all()

    def _ended(self, hand: Hand, seconds: float) -> None:
        placement, hand.under_way = hand.under_way, None
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
            extra={"request_ids": sorted({item.ticket.label for item in items})},
        )

    def _die(self, hand: Hand, death: BaseException) -> None:
        _log.critical("lane %s died", self.device, exc_info=death)
        self._observer.lane_died(self.device, death)
        if hand.running is not None:
            batcher, items = hand.running
            batcher.settle([(item, InferenceFailed(_FAILED_TEXT)) for item in items])
        hand.running = hand.busy_since = None
        self._let_claim(staged=True)
        self._ended(hand, 0.0)
        with self._lock:
            self.last_seen = -math.inf  # until a thread shows that it lives
            hand.restarts += 1
            self.gave_up = self.gave_up or hand.restarts > self._restart_limit
            if not (self._stopping or self.gave_up):
                hand.thread = self._new_thread(hand)
                hand.thread.start()
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
