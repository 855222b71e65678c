"""Decide which requests enter a model's queue, and how large its batches are.

A new request is placed by priority and due time. It is admitted if neither it nor an item of its own priority
behind it would then be late. The prediction is

    margin · (time until the lane is free + full batches · time of a full batch)
    full batches = ⌈(work before it + its own work) / work of a full batch⌉

It assumes full batches, because items that join a batch later make it slower. Several lanes take full batches
in turn, each when it is free. Before a batch was timed, only the length of the queue is bounded. Used under
the batcher's lock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from service.engine.queue.batch import BatchLimits
from service.engine.queue.batch_selection import BatchBounds
from service.engine.queue.batch_times import Meter, Ratios, TimeTable
from service.engine.queue.pending_request import LOWEST_PRIORITY
from service.engine.queue.queue_order import QueueOrder
from service.errors import Overloaded

Delays = Callable[[float, float], Sequence[float]]

_GOOD_ENOUGH = 0.985  # share of the best rate; larger batches than give this only make others wait
_GOOD_BELOW = 0.95  # the same where requests of higher priority must wait for a batch to end
_STILL_GOOD = 0.97  # share of the best rate; below it, another size is chosen
_SMOOTHING = 0.2
_REFRESH_BATCHES = 16
_TRIAL_BATCHES = 16  # batches before one of the next size is tried; each trial multiplies it by four
_GROWTH = 1.25
_TIGHT_SHARE_DOWN, _TIGHT_SHARE_UP = 0.9, 1.01  # settle where about one request in ten is tighter
_PROBE_SECONDS = 1.0
_PATIENCE = 4  # a request is due at most so many of the model's own deadlines after its arrival
_MOST_SHARE = 0.9
_LASTING_SECONDS = 10.0  # measured ratios expire, so that a model that refuses everything recovers
_PRESSURE = 0.5  # share of a request's time; a longer prediction is compared with the real time
_ROUNDING = 1e-9


class Admission:
    """Admission to one model's queue, and the size of its batches.

    Args:
        limits: How items may share a run.
        uniform: Whether all items have one shape, so that a batch's size is its number of items.

    Attributes:
        table: Expected times of batches.
        batch_size: Largest padded cost of a batch; for uniform items, their largest number.
        full_seconds: Expected time of a full batch; 0 before any was timed.
        gain: Lane time, in seconds, of a unit of work in a full batch.
        lanes: Number of lanes that serve the model; the batcher sets it.
        tight_seconds: About one request in ten asks for a tighter deadline.
        patience_seconds: How long a batch may take for the sake of other models on the lane.
    """

    def __init__(self, limits: BatchLimits, *, uniform: bool) -> None:
        self.table = TimeTable()
        self.batch_size = limits.max_items if uniform else limits.max_cost or 0
        self.full_seconds = 0.0
        self.gain = 1.0
        self.lanes = 1
        self.tight_seconds = limits.deadline_seconds
        self.patience_seconds = math.inf
        self._limits = limits
        self._most = self.batch_size
        self._uniform = uniform
        self._feasible = 0
        self._untried = 0
        self._trial_batches = _TRIAL_BATCHES
        self._taken: dict[int, Meter] = {}
        self._levels: dict[int, float] = {}
        self._is_mixed = False
        self._ratios = Ratios(remembered=512, fewest=32, quantile=0.995, lasting_seconds=_LASTING_SECONDS)
        self._since_refresh = 0
        self._probed = -math.inf

    def margin(self, now: float) -> float:
        """Return a high quantile of the recent ratios of real to predicted times; 1.05 to 2."""
        return self._ratios.margin(self.table.margin, now)

    def urgency(self, priority: int, deadline: float, now: float) -> Urgency:
        """Return a request's urgency. It is due at its deadline, or earlier where that is far away."""
        return Urgency(
            priority, deadline, min(deadline, now + _PATIENCE * self._limits.deadline_seconds), now
        )

    def work(self, cost: int) -> float:
        """Return an item's work: 1 for uniform items, else the seconds that it needs alone.

        Waiting items keep their work while the times in the table change.
        """
        return 1.0 if self._uniform else self.table.seconds(cost)

    def alone_seconds(self, work: float) -> float:
        """Return the lane time, in seconds, of some work that runs without other items."""
        return self.table.seconds(work) if self._uniform else work

    def wait_seconds(self, work: float) -> float:
        """Return how long the lanes are expected to be busy with this much work, in full batches."""
        return math.ceil(self._batches(work) / self.lanes) * self.full_seconds

    def done_seconds(self, work: float, delays: Sequence[float]) -> float:
        """Return in how many seconds this much work is expected to be done, in full batches.

        Args:
            work: In the unit of `work`.
            delays: Seconds until each lane can start, ascending.
        """
        return _done_seconds(self._batches(work), delays, self.full_seconds)

    def check(
        self,
        order: QueueOrder,
        works: Sequence[float],
        urgency: Urgency,
        delays: Delays,
        *,
        ahead: float = 0.0,
        is_asking: bool = False,
    ) -> tuple[int, float]:
        """Admit a request, or refuse it at once.

        Args:
            order: The items that wait.
            works: The work of each of the request's items.
            urgency: The request's urgency.
            delays: Returns the seconds until each lane can start, ascending, for the lane time of some work
                and its deadline.
            ahead: Work that is on its way to the queue and counts as standing before the request.
            is_asking: Whether the request is not submitted yet, so that no probe is used up.

        Returns:
            Its position in the order, and its predicted seconds if these are much of its time, else 0.

        Raises:
            Overloaded: The queue is full, or an item would be late.
        """
        waiting, most = len(order), self._limits.max_queue_items
        if waiting + len(works) > most:
            raise Overloaded(
                f"the queue is full: {waiting} of {most} items wait",
                reason="queue_full",
                retry_after_seconds=self.wait_seconds(order.total_work),
            )
        place = order.position(urgency.priority, urgency.due)
        if self.full_seconds <= 0:
            return place, 0.0
        added, before = sum(works), order.work_before(place) + ahead
        left = urgency.deadline - urgency.now
        margin = self.margin(urgency.now)
        expected = self._expected_seconds(before, added, urgency, delays)
        while margin * expected > left >= self.tight_seconds and before <= 0 and self._halve():
            expected = self._expected_seconds(before, added, urgency, delays)
        late = margin * expected - left
        if late <= 0 and place < waiting:
            late = self._displaced_lateness(order, place, added, urgency, delays)
        if late > 0 and (waiting or not self._is_probe(urgency.now, taken=not is_asking)):
            raise Overloaded(
                "it would not be answered before its deadline",
                reason="deadline",
                retry_after_seconds=late,
            )
        return place, expected if expected > _PRESSURE * left else 0.0

    def note_ratio(self, ratio: float, now: float) -> None:
        """Add the ratio of real to predicted time of a batch's slowest item."""
        self._ratios.add(ratio, now)

    def note_taken(self, priority: int, seconds: float, now: float) -> None:
        """Add lane time, in seconds, that a batch of this priority took."""
        level = min(priority, LOWEST_PRIORITY)
        meter = self._taken.get(level)
        if meter is None:
            meter = self._taken[level] = Meter()
        meter.add(seconds, now)
        self._levels[level] = now
        self._is_mixed = sum(now - last < _LASTING_SECONDS for last in self._levels.values()) > 1

    def note_deadline(self, urgency: Urgency, work: float) -> None:
        """Adjust `tight_seconds` to a request, unless its deadline is too short to be kept under load."""
        seconds = urgency.deadline - urgency.now
        tight = self.tight_seconds
        if seconds == tight or seconds < 2 * self.table.margin * self.alone_seconds(work):
            return
        if seconds < tight:
            self.tight_seconds = max(seconds, tight * _TIGHT_SHARE_DOWN)
        else:
            self.tight_seconds = min(seconds, tight * _TIGHT_SHARE_UP)

    def record(self, size: int, works: float, seconds: float, *, saturated: bool) -> None:
        """Learn from a batch that just ran.

        Args:
            size: Its padded cost.
            works: The sum of its items' work.
            seconds: Lane time that it took.
            saturated: Whether other items were left waiting.
        """
        if saturated and not self._uniform and works > 0:
            self.gain += _SMOOTHING * (min(seconds / works, 1.0) - self.gain)
            self.full_seconds += _SMOOTHING * (seconds - self.full_seconds)
        self.table.record(size, seconds)
        self._since_refresh += 1
        if self._since_refresh >= _REFRESH_BATCHES or self.full_seconds <= 0:
            self.refresh()

    def bound(self, size: int | None) -> None:
        """Limit the padded cost of batches; None lifts the limit."""
        limits = self._limits
        allowed = limits.max_items if self._uniform else limits.max_cost or 0
        self._most = min(size, allowed or size) if size else allowed
        self.batch_size = min(self.batch_size or self._most, self._most) if size else self._most
        self.refresh()

    def be_patient(self, seconds: float) -> None:
        """Limit the time of batches, for the sake of other models on the lane."""
        self.patience_seconds = seconds
        if self.full_seconds > seconds and self.batch_size > 1:
            self.refresh()

    def bounds_at(self, now: float, waiting: int) -> BatchBounds:
        """Return the bounds of the next batch, with this many items waiting."""
        size, limits = self.batch_size, self._limits
        if self._uniform:
            size = self._next_size(waiting)
            max_items, max_size = min(size, limits.max_items), limits.max_cost or 0
        else:
            max_items, max_size = limits.max_items, min(size, limits.max_cost or size)
        return BatchBounds(
            uniform=self._uniform,
            max_items=max_items,
            max_size=max_size,
            seconds=self.table.seconds,
            full_seconds=self.full_seconds,
            margin=self.table.margin,
            gain=self.gain,
            now=now,
        )

    def refresh(self) -> None:
        """Choose the batch size from the table and the deadlines that clients ask for."""
        self._since_refresh = 0
        table, limits = self.table, self._limits
        if table.known < 2 and limits.max_items > 1:  # one size says nothing of what batching gives
            return
        within = min(self.tight_seconds / (2 * table.margin), self.patience_seconds)
        most = int(2 * table.largest)  # one step beyond what is known
        if not self._uniform:
            self.batch_size = self._grown(table.largest_within(within, min(most, self._most or most)))
            self.full_seconds = self.full_seconds or table.seconds(table.largest)
            return
        feasible = self._feasible = table.largest_within(within, min(most, self._most))
        sizes = [2**k for k in range(feasible.bit_length()) if 2**k < feasible] + [feasible]
        best = max(self._rate(size) for size in sizes)
        good = _GOOD_BELOW if self._is_mixed else _GOOD_ENOUGH
        is_kept = self.batch_size <= feasible and self._rate(self.batch_size) >= _STILL_GOOD * best
        if self._is_mixed or not is_kept:
            chosen = next(s for s in sizes if self._rate(s) >= good * best)
            if chosen > self.batch_size:
                self._trial_batches = _TRIAL_BATCHES
            self.batch_size = self._grown(chosen)
        self._note_size()

    def _next_size(self, waiting: int) -> int:
        """Return the size of the next batch of uniform items.

        While enough items wait, the next larger size that fits the deadline is tried from time to time,
        because the time of a size that never runs is known from the warm-up only.
        """
        larger = min(2 * self.batch_size, self._feasible)
        if self._is_mixed or waiting < larger * (1 + self.lanes) or larger <= self.batch_size:
            return self.batch_size
        self._untried += 1
        if self._untried < self._trial_batches:
            return self.batch_size
        self._untried, self._trial_batches = 0, 4 * self._trial_batches
        return larger

    def _halve(self) -> bool:
        """Halve the batch size where other models on the lane leave no time for a batch of this size."""
        if not self._uniform or self.batch_size <= 1 or self.patience_seconds == math.inf:
            return False
        self.batch_size = math.ceil(self.batch_size / 2)
        self._note_size()
        return True

    def _note_size(self) -> None:
        self.full_seconds = self.table.seconds(self.batch_size)
        self.gain = self.full_seconds / self.batch_size

    def _rate(self, size: int) -> float:
        return size / self.table.seconds(size)

    def _grown(self, size: int) -> int:
        """Limit the growth of batches: the predictions for waiting items assumed shorter ones."""
        return size if self._ratios.empty else min(size, math.ceil(_GROWTH * self.batch_size))

    def _batches(self, work: float) -> int:
        if self.full_seconds <= 0:
            return 0
        return math.ceil(self.gain * work / self.full_seconds - _ROUNDING)

    def _expected_seconds(self, before: float, added: float, urgency: Urgency, delays: Delays) -> float:
        share = 1 - self._taken_by_higher(urgency)
        batches = self._batches(before + added)
        waits = delays(math.ceil(batches / self.lanes) * self.full_seconds, urgency.deadline)
        expected = _done_seconds(batches, waits, self.full_seconds / share)
        if before <= 0 and waits[0] <= 0:  # an idle lane starts at once, with what is there
            return min(expected, self.alone_seconds(added) / share)
        return expected

    def _displaced_lateness(
        self, order: QueueOrder, place: int, added: float, urgency: Urgency, delays: Delays
    ) -> float:
        """Return by how many seconds the new request makes an item of its priority late; 0 if none."""
        before = order.work_before(place)
        waits, margin = delays(0.0, urgency.deadline), self.margin(urgency.now)
        base = urgency.now
        for key, item, work in order.from_position(place):
            if key[0] > urgency.priority:
                break
            before += work
            finish = base + margin * self.done_seconds(before + added, waits)
            deadline = item.pending.deadline
            if finish > deadline >= base + self.done_seconds(before, waits):
                return finish - deadline
        return 0.0

    def _taken_by_higher(self, urgency: Urgency) -> float:
        """Return the share of the lanes that requests of higher priority took recently."""
        if urgency.priority == 1 or len(self._taken) < 2:
            return 0.0
        share = sum(meter.rate(urgency.now) for p, meter in self._taken.items() if p < urgency.priority)
        return min(share / self.lanes, _MOST_SHARE)

    def _is_probe(self, now: float, *, taken: bool) -> bool:
        """Return whether a request may enter an empty queue whatever its prediction: one a second.

        Without such probes, a wrong time in the table would never be corrected.
        """
        if now < self._probed + _PROBE_SECONDS:
            return False
        if taken:
            self._probed = now
        return True


def _done_seconds(batches: int, delays: Sequence[float], full: float) -> float:
    """Return when the last of some full batches ends, if each lane takes one whenever it is free.

    Args:
        batches: Number of batches.
        delays: When each lane is free, in seconds, ascending.
        full: Seconds of a batch.
    """
    if not batches:
        return delays[0]
    return min(  # over the number of lanes that take part; a lane that is busy for long does not
        max(delays[(batches - 1) % n] + math.ceil(batches / n) * full, delays[n - 1] + batches // n * full)
        for n in range(1, min(len(delays), batches) + 1)
    )


class Urgency:
    """A request's urgency.

    Args:
        priority: 1 is highest.
        deadline: In clock seconds.
        due: Sort key among requests of its priority: the deadline, or earlier where that is far away.
        now: The clock, in seconds.
    """

    __slots__ = ("deadline", "due", "now", "priority")

    def __init__(self, priority: int, deadline: float, due: float, now: float) -> None:
        self.priority = priority
        self.deadline = deadline
        self.due = due
        self.now = now
