"""Which waiting items run next, together: the most urgent one, and those that it pays to run with it.

Items of one shape run in their order, as many as the batch size allows. Ragged ones are padded to the
longest, so the head takes along those whose cost is nearest to its own, and as many of them as make the
batch's time least against the time that its items would need one by one. Where that is never less, the
head runs alone. Pure functions, used under the batcher's lock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from service.engine.queue.queue_order import QueueOrder

MAX_PADDING_RATIO = 1.25  # padding may make a batch at most this much dearer than its real cost
_COMPANY_SHARE = 0.1  # items of lower priority may make the head wait at most this much longer
_LEAST_GAIN = 0.99  # one more is taken along only where that saves at least so much
_WORTH_A_LOOK = 64  # how many of nearest cost are looked at on either side of the head


@dataclass(frozen=True, slots=True)
class BatchBounds:
    """What bounds a batch.

    Attributes:
        uniform: Whether all items have one shape.
        max_items: Most items.
        max_size: Largest padded cost; 0 is none.
        seconds: Expected time of a batch, by its padded cost; 0 where it is not known.
        full_seconds: Expected time of a full batch.
        margin: How much longer than expected a batch may take.
        gain: Lane time, in seconds, of a unit of work in a full batch.
        now: The clock.
    """

    uniform: bool
    max_items: int
    max_size: int
    seconds: Callable[[float], float]
    full_seconds: float
    margin: float
    gain: float
    now: float

    def longest_with_others(self, seconds: float) -> float:
        """Give the longest batch that an urgent head's own batch may become by less urgent items.

        The head has waited for a full batch to end, which could not be helped; it shall not wait much more.
        """
        return seconds + _COMPANY_SHARE * (seconds + self.full_seconds)


def select_batch(order: QueueOrder, bounds: BatchBounds) -> Sequence[int]:
    """Choose the positions, ascending, of those that run together; the first is always among them."""
    return range(_uniform(order, bounds)) if bounds.uniform else _ragged(order, bounds)


def _uniform(order: QueueOrder, bounds: BatchBounds) -> int:
    """Tell how many from the order's beginning run together."""
    cost = order.items[0].cost
    most = min(len(order), bounds.max_items)
    if bounds.max_size:
        most = min(most, max(1, bounds.max_size // cost))
    alike = order.rank_end(order.keys[0][0])
    if alike >= most:
        return most
    limit = bounds.longest_with_others(bounds.seconds(alike * cost))
    count = alike
    while count < most and bounds.seconds((count + 1) * cost) <= limit:
        count += 1
    return count


def _ragged(order: QueueOrder, bounds: BatchBounds) -> list[int]:
    alike = order.rank_end(order.keys[0][0])
    group = _Group(order, bounds)
    group.grow(range(1, alike), limit=float("inf"))
    if alike < len(order):
        group.grow(range(alike, len(order)), limit=bounds.longest_with_others(bounds.seconds(group.size)))
    return sorted(group.chosen)


class _Group:
    """A batch under construction around the order's first item."""

    def __init__(self, order: QueueOrder, bounds: BatchBounds) -> None:
        self.chosen = [0]
        self._order = order
        self._bounds = bounds
        self._largest = self._total = order.items[0].cost
        self._work = order.works[0]
        self._extra = 0.0
        self._slack = _slack(order, bounds)

    @property
    def size(self) -> int:
        return self._largest * len(self.chosen)

    def grow(self, positions: Iterable[int], *, limit: float) -> None:
        """Take along whom it pays to, nearest cost first.

        Args:
            positions: Who may come.
            limit: Longest time of the batch in seconds.
        """
        items, works = self._order.items, self._order.works
        smaller, larger = self._near(positions)
        chosen, largest, total, work = list(self.chosen), self._largest, self._total, self._work
        longest = self._bounds.seconds(self.size)
        ends = self._order.items[0].pending.deadline
        best, extra = _over(longest, work), self._extra
        s = g = 0
        while len(chosen) < self._bounds.max_items and (s < len(smaller) or g < len(larger)):
            down = items[smaller[s]].cost if s < len(smaller) else 0
            up = items[larger[g]].cost if g < len(larger) else 0
            count = len(chosen) + 1
            if not up or (down and count * largest * (total + up) <= count * up * (total + down)):
                position, new_largest, s = smaller[s], largest, s + 1
            else:
                position, new_largest, g = larger[g], up, g + 1
            total += items[position].cost
            padded = count * new_largest
            if padded > MAX_PADDING_RATIO * total or (
                self._bounds.max_size and padded > self._bounds.max_size
            ):
                break
            seconds = self._bounds.seconds(padded)
            if seconds > limit:
                break
            if self._bounds.margin * seconds > ends - self._bounds.now:
                break
            longer = max(0.0, seconds - longest)
            if self._bounds.margin * (extra + longer) > self._slack[position - 1]:
                total -= items[position].cost
                continue
            extra, longest = extra + longer, max(seconds, longest)
            chosen.append(position)
            largest = new_largest
            work += works[position]
            ratio = _over(seconds, work)
            if ratio <= best * _LEAST_GAIN or not work:
                best = ratio
                self.chosen, self._extra = list(chosen), extra
                self._largest, self._total, self._work = largest, total, work

    def _near(self, positions: Iterable[int]) -> tuple[Sequence[int], Sequence[int]]:
        """Split into those that cost no more than the head and those that cost more, nearest first."""
        items = self._order.items
        head = items[0].cost
        smaller = [i for i in positions if items[i].cost <= head]
        larger = [i for i in positions if items[i].cost > head]
        smaller.sort(key=lambda i: -items[i].cost)
        larger.sort(key=lambda i: items[i].cost)
        return smaller[:_WORTH_A_LOOK], larger[:_WORTH_A_LOOK]


def _slack(order: QueueOrder, bounds: BatchBounds) -> list[float]:
    """Tell by how much all up to each position, but the head, could start later and still be in time.

    Those who are late already ask for nothing.
    """
    done = bounds.now + bounds.seconds(order.items[0].cost)
    least = math.inf
    slack = [least]
    for item, work in zip(order.items[1:], order.works[1:], strict=True):
        spare = item.pending.deadline - done - work
        done += bounds.gain * work
        if 0 <= spare < least:
            least = spare
        slack.append(least)
    return slack


def _over(seconds: float, work: float) -> float:
    """Give a batch's time over the time of its items one by one; 1 where neither is known."""
    return seconds / work if work > 0 else 1.0
