"""Who waits for a model, the most urgent first: by priority, then by when the answer is due.

Beside each item stands its work: what it adds to the lanes' load, in a unit of its model's. Used under the
batcher's lock. Plain sorted lists: a queue holds hundreds, and slices of lists are summed in C.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterator, Sequence

from service.engine.queue.pending_request import Item

Key = tuple[int, float, int]


class QueueOrder:
    """The items that wait.

    Attributes:
        keys: Priority, due time in clock seconds, and sequence number, ascending.
        items: In the order of the keys.
        works: That of each.
        total_work: Their sum.
    """

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self.items: list[Item] = []
        self.works: list[float] = []
        self.total_work = 0.0
        self._sequence = itertools.count()

    def __len__(self) -> int:
        return len(self.items)

    def position(self, priority: int, due: float) -> int:
        """Tell where a newcomer would stand; behind its equals."""
        keys = self.keys
        if not keys or keys[-1] < (priority, due, 0) or keys[-1][:2] == (priority, due):
            return len(keys)
        return bisect.bisect_left(keys, (priority, due, next(self._sequence)))

    def work_before(self, position: int) -> float:
        """Sum the work that stands before a position."""
        return self.total_work if position == len(self.works) else sum(self.works[:position])

    def rank_end(self, priority: int) -> int:
        """Tell where the items end that have at least this priority."""
        if not self.keys or self.keys[-1][0] <= priority:
            return len(self.keys)
        return bisect.bisect_left(self.keys, (priority + 1,))

    def insert(self, position: int, priority: int, due: float, item: Item, work: float) -> None:
        """Put an item in its place."""
        self.keys.insert(position, (priority, due, next(self._sequence)))
        self.items.insert(position, item)
        self.works.insert(position, work)
        self.total_work += work

    def take(self, positions: Sequence[int]) -> list[Item]:
        """Remove the items at ascending positions and give them, in order."""
        taken = [self.items[i] for i in positions]
        if positions and positions[-1] == len(positions) - 1:  # they are the first ones: the usual case
            end = len(positions)
            del self.keys[:end], self.items[:end], self.works[:end]
        else:
            for i in reversed(positions):
                del self.keys[i], self.items[i], self.works[i]
        self.total_work = sum(self.works)
        return taken

    def remove_unless(self, wanted: Callable[[Item], bool]) -> list[Item]:
        """Remove and give the items that are not wanted any more."""
        return self.take([i for i, item in enumerate(self.items) if not wanted(item)])

    def from_position(self, position: int) -> Iterator[tuple[Key, Item, float]]:
        """Go through key, item and work of everyone from a position on."""
        return zip(self.keys[position:], self.items[position:], self.works[position:], strict=True)
