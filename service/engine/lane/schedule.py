"""Which model a lane serves next, and how long a model must wait for the lane.

Models get equal shares of the lane's time; if their shares differ little, the earliest deadline goes first.
Arithmetic only. The lane's threads call it under the lane's lock; admission calls `delay` from other threads
and reads single numbers without a lock.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Generic, Protocol, TypeVar

from service.engine.queue.batch_times import Meter
from service.engine.runtime.run import Run, Stage, in_place

FAIRNESS_SECONDS = 0.05  # models whose used time differs by less go by deadline
_MOST_SHARE = 0.9
_IDLE_SHARE = 0.01  # of a lane's time; the deadlines of models that use less are not considered


class ScheduledQueue(Protocol):
    """The part of a model's queue that a lane uses."""

    @property
    def backlog_seconds(self) -> float:
        """Expected lane time of the waiting items."""

    @property
    def full_seconds(self) -> float:
        """Expected time of one full batch."""

    @property
    def tight_seconds(self) -> float:
        """Time until the deadline that most of its requests have at least."""

    @property
    def pressing(self) -> float:
        """Deadline of the next batch's first item, in clock seconds; infinity without work."""

    def head(self) -> tuple[float, float] | None:
        """Return when the next batch may be claimed, and its deadline; None without work."""


AnyQueue = TypeVar("AnyQueue", bound=ScheduledQueue)


class Placement(Generic[AnyQueue]):
    """A model on a lane.

    Attributes:
        queue: The model's queue.
        run: Runs a batch.
        stage: Copies a batch to the device, to be run later.
        used_seconds: Device time that it used so far, for the fair share.
        recent: Rate of the device time that it used recently.
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
        placements: The models that the lane serves.
    """

    def __init__(self) -> None:
        self.placements: tuple[Placement[AnyQueue], ...] = ()
        self._frees_at: float | None = None
        self._claimed: deque[float] = deque()

    @property
    def frees_at(self) -> float | None:
        """When the claimed batches are expected to be done, in clock seconds; None without one."""
        return self._frees_at

    @property
    def running_seconds(self) -> float:
        """Expected time of the batch that was claimed first; 0 without one."""
        return self._claimed[0] if self._claimed else 0.0

    def add(self, queue: AnyQueue, run: Run, stage: Stage | None = None) -> None:
        """Serve a model from now on. Without `stage`, a run reads its inputs in host memory."""
        least = min((p.used_seconds for p in self.placements), default=0.0)
        self.placements = (*self.placements, Placement(queue, run, stage or in_place(run), least))

    def remove(self, queue: AnyQueue) -> None:
        """Stop serving a model."""
        self.placements = tuple(p for p in self.placements if p.queue is not queue)

    def pick(self, now: float) -> tuple[Placement[AnyQueue] | None, float | None]:
        """Choose the model to run: the earliest deadline of those that used about the least time.

        Returns:
            The model, or None and the seconds to wait for a delayed batch; None, None if nothing waits.
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
        least = min(placement.used_seconds for placement, _ in ready)
        near = [pair for pair in ready if pair[0].used_seconds <= least + FAIRNESS_SECONDS]
        chosen = min(near, key=lambda pair: pair[1])[0]
        for placement in self.placements:  # an idle model saves up no time, which would block the others
            placement.used_seconds = max(placement.used_seconds, least - FAIRNESS_SECONDS)
        return chosen, None

    def patience(self, placement: Placement[AnyQueue], now: float) -> float:
        """Return how long a model's batch may take: half of the deadline of other busy models."""
        busy = (p.queue for p in self.placements if p is not placement and p.recent.rate(now) > _IDLE_SHARE)
        return min((queue.tight_seconds / 2 for queue in busy), default=math.inf)

    def began(self, now: float, seconds: float) -> None:
        """Note that a batch was claimed, which runs at once or after the batch that was claimed before.

        Args:
            now: The clock.
            seconds: Expected time of its run.
        """
        self._claimed.append(seconds)
        self._frees_at = max(now, self._frees_at or now) + seconds

    def ended(self, placement: Placement[AnyQueue], seconds: float, now: float) -> None:
        """Note the end of the batch that was claimed first, and charge its model."""
        self._claimed.popleft()
        self._frees_at = now + sum(self._claimed) if self._claimed else None
        self.charge(placement, seconds, now)

    def charge(self, placement: Placement[AnyQueue], seconds: float, now: float) -> None:
        """Count device time that a model used."""
        placement.used_seconds += seconds
        placement.recent.add(seconds, now)

    def delay(self, queue: AnyQueue, work_seconds: float, deadline: float, now: float) -> float:
        """Predict for how long the lane works for others before a model's work is done.

        Args:
            queue: The model's queue.
            work_seconds: Lane time of its work.
            deadline: The deadline of that work.
            now: The clock.

        Returns:
            Seconds: the rest of the claimed batches, and what other models get of the lane meanwhile. That
            is their waiting and expected items, at most until the shares are equal.
        """
        frees_at = self._frees_at
        residual = (
            0.0 if frees_at is None else abs(frees_at - now)
        )  # an overdue batch may take that long again
        mine = next((p for p in self.placements if p.queue is queue), None)
        if mine is None:  # detached meanwhile
            return residual
        others = (p for p in self.placements if p is not mine)
        return residual + sum(_meanwhile(mine, other, work_seconds, deadline, now) for other in others)


def _meanwhile(
    mine: Placement[AnyQueue], other: Placement[AnyQueue], work_seconds: float, deadline: float, now: float
) -> float:
    """Predict the seconds that another model gets of the lane before this model's work is done."""
    share = min(other.recent.rate(now), _MOST_SHARE)
    coming = other.queue.backlog_seconds + share / (1 - share) * work_seconds
    ahead = mine.used_seconds - other.used_seconds
    ahead += -FAIRNESS_SECONDS if deadline <= other.queue.pressing else FAIRNESS_SECONDS
    turn = other.queue.full_seconds
    fair = max(0.0, work_seconds + ahead)
    return min(coming, math.ceil(fair / turn) * turn if turn > 0 else fair)
