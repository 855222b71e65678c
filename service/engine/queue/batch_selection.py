"""Choose the waiting items that run in the next batch.

The first item of the order is always among them. Items of one shape run in their order, as many as the batch
size allows. Ragged items are padded to the longest, so the first item runs with items of nearest cost: as
many as make the batch's time smallest compared to the time that its items need one by one. If no batch is
faster, the first item runs alone. Pure functions, used under the batcher's lock.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from service.engine.queue.pending_request import Item
from service.engine.queue.queue_order import QueueOrder

MAX_PADDING_RATIO = 1.25  # largest padded cost of a batch, relative to its real cost
_LOWER_PRIORITY_SHARE = 0.1  # how much longer a batch may take because of items of lower priority
_WORTHWHILE_RATIO = 0.99  # a larger batch must need less than this share of the time for each unit of work
_MOST_CANDIDATES = 64  # items of nearest cost that are considered, on either side of the first item's cost


@dataclass(frozen=True, slots=True)
class BatchBounds:
    """Limits of a batch, and what is known of its time.

    Attributes:
        uniform: Whether all items have one shape.
        max_items: Largest number of items.
        max_size: Largest padded cost; 0 means no limit.
        seconds: Expected time of a batch, by its padded cost; 0 where it is not known.
        full_seconds: Expected time of a full batch.
        margin: Largest expected ratio of a batch's time to the prediction.
        gain: Lane time, in seconds, of a unit of work in a full batch.
        now: The clock, in seconds.
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
        """Return the longest time of a batch that items of lower priority may join.

        The first item may have waited for a full batch to end already. It must not wait much longer.
        """
        return seconds + _LOWER_PRIORITY_SHARE * (seconds + self.full_seconds)


def select_batch(order: QueueOrder, bounds: BatchBounds) -> Sequence[int]:
    """Return the positions, ascending, of the items that run together."""
    return range(_uniform_count(order, bounds)) if bounds.uniform else _ragged_positions(order, bounds)


def _uniform_count(order: QueueOrder, bounds: BatchBounds) -> int:
    cost = order.items[0].cost
    most = min(len(order), bounds.max_items)
    if bounds.max_size:
        most = min(most, max(1, bounds.max_size // cost))
    count = min(order.rank_end(order.keys[0][0]), most)
    limit = bounds.longest_with_others(bounds.seconds(count * cost))
    while count < most and bounds.seconds((count + 1) * cost) <= limit:
        count += 1
    return count


def _ragged_positions(order: QueueOrder, bounds: BatchBounds) -> Sequence[int]:
    same_priority = order.rank_end(order.keys[0][0])
    selection = _Selection(order, bounds)
    group = selection.grow(selection.first, range(1, same_priority), limit=math.inf)
    limit = bounds.longest_with_others(group.seconds)
    group = selection.grow(group, range(same_priority, len(order)), limit=limit)
    return sorted(group.positions)


@dataclass(frozen=True, slots=True)
class _Group:
    """Items that may run together.

    Attributes:
        positions: Where they stand in the order.
        largest: Largest cost of an item.
        total: Sum of the costs.
        work: Sum of the work: the time that they need one by one, in seconds.
        seconds: Expected time of the batch.
        delay: Part of `seconds` that was added after the first item.
    """

    positions: tuple[int, ...]
    largest: int
    total: int
    work: float
    seconds: float
    delay: float

    @property
    def padded_cost(self) -> int:
        return self.largest * len(self.positions)

    @property
    def time_ratio(self) -> float:
        return self.seconds / self.work if self.work > 0 else 0.0


class _Selection:
    """Grows a batch of ragged items around the first item of the order."""

    def __init__(self, order: QueueOrder, bounds: BatchBounds) -> None:
        cost = order.items[0].cost
        self.first = _Group((0,), cost, cost, order.works[0], bounds.seconds(cost), 0.0)
        self._order = order
        self._bounds = bounds
        self._slack = _slack(order, bounds)

    def grow(self, group: _Group, positions: Iterable[int], *, limit: float) -> _Group:
        """Return the best batch that contains a group and some of the other items.

        Args:
            group: The items that are chosen already.
            positions: The other items.
            limit: Longest time of the batch, in seconds.
        """
        best = group
        candidates = _Candidates(self._order.items, positions)
        while len(group.positions) < self._bounds.max_items and candidates:
            position = candidates.pop(group)
            larger = self._joined(group, position)
            if not self._fits(larger, limit):
                break
            if self._bounds.margin * larger.delay > self._slack[position - 1]:
                continue
            group = larger
            if group.time_ratio <= best.time_ratio * _WORTHWHILE_RATIO:
                best = group
        return best

    def _joined(self, group: _Group, position: int) -> _Group:
        cost = self._order.items[position].cost
        largest = max(group.largest, cost)
        padded_cost = largest * (len(group.positions) + 1)
        seconds = max(group.seconds, self._bounds.seconds(padded_cost))
        return _Group(
            positions=(*group.positions, position),
            largest=largest,
            total=group.total + cost,
            work=group.work + self._order.works[position],
            seconds=seconds,
            delay=group.delay + seconds - group.seconds,
        )

    def _fits(self, group: _Group, limit: float) -> bool:
        bounds = self._bounds
        left = self._order.items[0].pending.deadline - bounds.now
        return (
            group.padded_cost <= MAX_PADDING_RATIO * group.total
            and (not bounds.max_size or group.padded_cost <= bounds.max_size)
            and group.seconds <= limit
            and bounds.margin * group.seconds <= left
        )


class _Candidates:
    """Items in the order in which they are tried: the one that adds the least padding first."""

    def __init__(self, items: Sequence[Item], positions: Iterable[int]) -> None:
        first = items[0].cost
        by_distance = sorted(positions, key=lambda i: abs(items[i].cost - first))
        self._items = items
        self._smaller = deque([i for i in by_distance if items[i].cost <= first][:_MOST_CANDIDATES])
        self._larger = deque([i for i in by_distance if items[i].cost > first][:_MOST_CANDIDATES])

    def __bool__(self) -> bool:
        return bool(self._smaller or self._larger)

    def pop(self, group: _Group) -> int:
        """Remove the item that adds the least padding to a group, and return its position."""
        if not self._larger:
            return self._smaller.popleft()
        if not self._smaller:
            return self._larger.popleft()
        down, up = self._items[self._smaller[0]].cost, self._items[self._larger[0]].cost
        if group.largest * (group.total + up) <= max(group.largest, up) * (group.total + down):
            return self._smaller.popleft()
        return self._larger.popleft()


def _slack(order: QueueOrder, bounds: BatchBounds) -> Sequence[float]:
    """Return how much later all items up to each position could start and still be in time, in seconds.

    The first item counts for nothing here, and neither does an item that is late in any case.
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
