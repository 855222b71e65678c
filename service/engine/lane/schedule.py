"""Which model a lane serves next, and when the lane will have time for a model.

Models get equal shares of the lane's time; within a small difference, the most pressing deadline goes
first. Arithmetic only: the lane's thread calls it, and admission asks it from other threads, reading
single numbers without a lock.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Generic, Protocol, TypeVar

from service.engine.queue.batch_times import Meter
from service.engine.runtime.run import Run, Stage, in_place

FAIRNESS_SECONDS = 0.05  # models whose used time differs by less than this go by deadline
_MOST_SHARE = 0.9
_IDLE_SHARE = 0.01  # of a lane: who takes less is not held up for


class ScheduledQueue(Protocol):
    """What a lane needs to know of a model's queue."""

    @property
    def backlog_seconds(self) -> float:
        """Expected lane time of what waits."""

    @property
    def full_seconds(self) -> float:
        """Expected time of one full batch."""

    @property
    def tight_seconds(self) -> float:
        """The deadline that most of its requests have at least."""

    @property
    def pressing(self) -> float:
        """Deadline of the next batch's head; infinite without work."""

    def head(self) -> tuple[float, float] | None:
        """Tell when the next batch may be claimed and its deadline; None without work."""


AnyQueue = TypeVar("AnyQueue", bound=ScheduledQueue)


class Placement(Generic[AnyQueue]):
    """A model on a lane.

    Attributes:
        run: Runs a batch.
        stage: Brings a batch to the device, to be run in its turn.
        used_seconds: Device time charged so far, for the fair share.
        recent: Device time charged of late.
    """

    def __init__(self, queue: AnyQueue, run: Run, stage: Stage, used_seconds: float) -> None:
        self.queue = queue
        self.run = run
        self.stage = stage
        self.used_seconds = used_seconds
        self.recent = Meter()


class Schedule(Generic[AnyQueue]):
    """The models of one lane.

    Attributes:
        placements: Who is served here.
    """

    def __init__(self) -> None:
        self.placements: tuple[Placement[AnyQueue], ...] = ()
        self._frees_at: float | None = None
        self._under_way: deque[float] = deque()

    @property
    def frees_at(self) -> float | None:
        """When all that was claimed is expected to be done, in clock seconds; None while nothing is."""
        return self._frees_at

    @property
    def running_seconds(self) -> float:
        """How long the batch that was claimed first is expected to take; 0 without one."""
        return self._under_way[0] if self._under_way else 0.0

    def add(self, queue: AnyQueue, run: Run, stage: Stage | None = None) -> None:
        """Serve a model from now on. Without `stage`, a run reads its inputs where they stand."""
        least = min((p.used_seconds for p in self.placements), default=0.0)
        self.placements = (*self.placements, Placement(queue, run, stage or in_place(run), least))

    def remove(self, queue: AnyQueue) -> None:
        """Serve a model no more."""
        self.placements = tuple(p for p in self.placements if p.queue is not queue)

    def pick(self, now: float) -> tuple[Placement[AnyQueue] | None, float | None]:
        """Choose the model to run: of those near the least used time, the one most pressed.

        Returns:
            The choice, or how long to wait for a delayed batch (None: until woken).
        """
        ready: list[tuple[Placement[AnyQueue], float]] = []
        soonest = math.inf
        for placement in self.placements:
            head = placement.queue.head()
            if head is None:
                continue
            claimable, deadline = head
            if claimable <= now:
                ready.append((placement, deadline))
            else:
                soonest = min(soonest, claimable)
        if not ready:
            return None, None if soonest == math.inf else soonest - now
        if len(self.placements) == 1:
            return ready[0][0], None
        least = min(placement.used_seconds for placement, _ in ready)
        near = [pair for pair in ready if pair[0].used_seconds <= least + FAIRNESS_SECONDS]
        chosen = min(near, key=lambda pair: pair[1])[0]
        for placement in self.placements:  # nobody saves up time while idle to starve the others with
            placement.used_seconds = max(placement.used_seconds, least - FAIRNESS_SECONDS)
        return chosen, None

    def patience(self, placement: Placement[AnyQueue], now: float) -> float:
        """Tell how long a model's batch may take: half of the deadline of others that are busy too."""
        busy = (p.queue for p in self.placements if p is not placement and p.recent.rate(now) > _IDLE_SHARE)
        return min((queue.tight_seconds / 2 for queue in busy), default=math.inf)

    def began(self, now: float, seconds: float) -> None:
        """Note that a batch was claimed, and how long its run is expected to take.

        It runs at once, or after the one that is under way.
        """
        self._under_way.append(seconds)
        self._frees_at = max(now, self._frees_at or now) + seconds

    def ended(self, placement: Placement[AnyQueue], seconds: float, now: float) -> None:
        """Charge a model for the batch that was claimed first."""
        self._under_way.popleft()
        self._frees_at = now + sum(self._under_way) if self._under_way else None
        self.charge(placement, seconds, now)

    def charge(self, placement: Placement[AnyQueue], seconds: float, now: float) -> None:
        """Charge a model for device time."""
        placement.used_seconds += seconds
        placement.recent.add(seconds, now)

    def delay(self, queue: AnyQueue, work_seconds: float, deadline: float, now: float) -> float:
        """Predict what keeps the lane from doing a model's work at once.

        Args:
            queue: The model's.
            work_seconds: Lane time of its work.
            deadline: Of that work.
            now: The clock.

        Returns:
            Seconds of the running batch and of what other models get of the lane meanwhile: what they have
            waiting and go on bringing, but no more than makes the shares equal.
        """
        frees_at = self._frees_at
        residual = 0.0 if frees_at is None else abs(frees_at - now)  # overdue: it may take as long again
        placements = self.placements
        if len(placements) == 1:
            return residual
        mine = next((p for p in placements if p.queue is queue), None)
        if mine is None:
            return residual
        return residual + sum(
            _meanwhile(mine, other, work_seconds, deadline, now) for other in placements if other is not mine
        )


def _meanwhile(
    mine: Placement[AnyQueue], other: Placement[AnyQueue], work_seconds: float, deadline: float, now: float
) -> float:
    """Predict what another model gets of the lane before some work of this one is done."""
    share = min(other.recent.rate(now), _MOST_SHARE)
    coming = other.queue.backlog_seconds + share / (1 - share) * work_seconds
    if coming <= 0:
        return 0.0
    ahead = mine.used_seconds - other.used_seconds
    ahead += -FAIRNESS_SECONDS if deadline <= other.queue.pressing else FAIRNESS_SECONDS
    turn = other.queue.full_seconds
    fair = max(0.0, work_seconds + ahead)
    return min(coming, math.ceil(fair / turn) * turn if turn > 0 else fair)
