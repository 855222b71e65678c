"""The items that wait for a model, sorted by priority and then by due time.

Each item is kept with its work: what it adds to the load of the lanes, in the unit of `Admission.work`.
Changed under the batcher's lock only. Sorted lists are enough: a queue holds hundreds of items, and the sum
over a slice of a list runs in C.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

from service.engine.queue.pending_request import Item

Key = tuple[int, float, int]


class QueueOrder:
    """The items that wait.

    Invariant: what the queue says equals what is in it, always. `total_work` and `first_deadline` change
    together with the lists, in `insert` and `take`, which are the only ways into the queue and out of it.
    They may be read without the lock.

    Attributes:
        keys: Priority, due time in clock seconds, and sequence number, ascending.
        items: In the order of the keys.
        works: The work of each item.
        total_work: The sum of `works`; 0 without items.
        first_deadline: Deadline of the first item in clock seconds; infinite without items.
    """

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.items: list[Item] = []
        self.works: list[float] = []
        self.total_work = 0.0
        self.first_deadline = math.inf
        self._sequence = itertools.count()

    def __len__(self) -> int:
        return len(self.items)

    def position(self, priority: int, due: float) -> int:
        """Return the position that a new request would get: behind those of equal urgency."""
        return bisect.bisect_left(self.keys, (priority, due, math.inf))

    def work_before(self, position: int) -> float:
        """Return the work of all items before a position."""
        return sum(self.works[:position])

    def rank_end(self, priority: int) -> int:
        """Return the number of items that have this priority or a higher one."""
        return bisect.bisect_left(self.keys, (priority + 1,))

    def insert(self, position: int, priority: int, due: float, item: Item, work: float) -> None:
        """Insert an item at the position that `position` returned for it."""
        self.keys.insert(position, (priority, due, next(self._sequence)))
        self.items.insert(position, item)
        self.works.insert(position, work)
        self._update_summary()

    def take(self, positions: Sequence[int]) -> list[Item]:
        """Remove the items at some positions, given in ascending order, and return them."""
        taken = [self.items[i] for i in positions]
        if positions and positions[-1] == len(positions) - 1:  # the first ones, which is the usual case
            end = len(positions)
            del self.keys[:end], self.items[:end], self.works[:end]
        else:
            for i in reversed(positions):
                del self.keys[i], self.items[i], self.works[i]
        self._update_summary()
        return taken

    def remove_unless(self, wanted: Callable[[Item], bool]) -> list[Item]:
        """Remove the items for which `wanted` is false, and return them."""
        return self.take([i for i, item in enumerate(self.items) if not wanted(item)])

    def from_position(self, position: int) -> Iterator[tuple[Key, Item, float]]:
        """Iterate over key, item and work of all items from a position on."""
        return zip(self.keys[position:], self.items[position:], self.works[position:], strict=True)

    def _update_summary(self) -> None:
        self.total_work = sum(self.works)
        self.first_deadline = self.items[0].pending.deadline if self.items else math.inf
