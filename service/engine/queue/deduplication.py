"""The same work once: equal items that wait or run share one execution, and answers may be kept.

Items are known by their content, not by their request: two files that decode to the same array are equal.
What waits is found by a sample of its arrays and then compared in full, which is cheap where nothing is
equal. A cache of answers cannot compare, so its models pay for a hash over everything. Used under the
batcher's lock, except for what only reads an item's own arrays.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.queue.dropping import is_wanted
from service.engine.queue.pending_request import Inputs, Item, Outputs, Settlement
from service.errors import RequestError

_SMALL_BYTES = 4096  # arrays up to this size are their own sample
_SAMPLES = 128
_ENTRY_BYTES = 256  # what an entry takes beside its arrays


def content_of(inputs: Inputs, *, exact: bool) -> Hashable:
    """Give what an item is known by.

    Args:
        inputs: Its arrays.
        exact: Whether equal contents shall mean equal arrays, at the price of hashing all of them.
    """
    if exact:
        digest = hashlib.blake2b(digest_size=16)
        for name, array in inputs.items():
            digest.update(f"{name} {array.dtype} {array.shape};".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.digest()
    return tuple((array.shape, _sample(array)) for _, array in inputs.items())


def are_equal(one: Inputs, other: Inputs) -> bool:
    """Compare all arrays of two items."""
    return one.keys() == other.keys() and all(
        array.dtype == other[name].dtype and np.array_equal(array, other[name]) for name, array in one.items()
    )


@dataclass(slots=True)
class Sorted:
    """A request's items, by what has to be done for them.

    Attributes:
        answers: Those whose answer was kept.
        follows: Those that are equal to one that waits or runs, behind it.
        fresh: Those that must run.
    """

    answers: list[Settlement] = field(default_factory=list)
    follows: list[tuple[Item, Item]] = field(default_factory=list)
    fresh: list[Item] = field(default_factory=list)


class Deduplication:
    """What one queue knows of equal items.

    Args:
        cache_bytes: Size of the cache of answers; 0 is none.
    """

    def __init__(self, cache_bytes: int) -> None:
        self.has_cache = cache_bytes > 0
        self._cache = AnswerCache(cache_bytes)
        self._flights = Flights(exact=self.has_cache)

    @property
    def cache_size_bytes(self) -> int:
        """What the kept answers take."""
        return self._cache.size_bytes

    def recognise(self, item: Item) -> None:
        """Find out what an item is known by. Needs no lock."""
        item.content = content_of(item.inputs, exact=self.has_cache)

    def sort(self, items: Iterable[Item], now: float) -> Sorted:
        """Look for answers and for equal items; the fresh ones can be found from now on."""
        found = Sorted()
        for item in items:
            outputs = self._cache.get(item.content) if self.has_cache else None
            if outputs is not None:
                found.answers.append((item, outputs))
                continue
            leader = self._flights.find(item)
            if leader is not None and _may_follow(leader, item, now):
                found.follows.append((leader, item))
            else:
                found.fresh.append(item)
                self._flights.add(item)
        return found

    def end(self, item: Item) -> None:
        """Let nobody follow an item any more."""
        self._flights.remove(item)

    def copies(self, settlements: Sequence[Settlement]) -> Sequence[tuple[Hashable, Outputs]]:
        """Make what can be kept of some results. Needs no lock."""
        if not self.has_cache:
            return ()
        return [(item.content, kept(r)) for item, r in settlements if not isinstance(r, RequestError)]

    def keep(self, copies: Sequence[tuple[Hashable, Outputs]]) -> None:
        """Keep answers for those who ask the same again."""
        for content, outputs in copies:
            self._cache.put(content, outputs)

    def close(self) -> None:
        """Keep no answers from now on."""
        self._cache.close()


class Flights:
    """The items that wait or run, by content.

    Args:
        exact: Whether equal contents mean equal arrays.
    """

    def __init__(self, *, exact: bool) -> None:
        self._exact = exact
        self._items: dict[Hashable, Item] = {}

    def find(self, item: Item) -> Item | None:
        """Give an item that has the same arrays."""
        found = self._items.get(item.content)
        if found is None or (not self._exact and not are_equal(found.inputs, item.inputs)):
            return None
        return found

    def add(self, item: Item) -> None:
        """Let others find this item."""
        self._items[item.content] = item

    def remove(self, item: Item) -> None:
        """Let nobody find this item any more."""
        if self._items.get(item.content) is item:
            del self._items[item.content]


class AnswerCache:
    """Answers by content, the longest unused leave first.

    Args:
        max_bytes: Most that the kept arrays take.

    Attributes:
        size_bytes: What they take.
    """

    def __init__(self, max_bytes: int) -> None:
        self.size_bytes = 0
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, tuple[Outputs, int]] = OrderedDict()

    def get(self, content: Hashable) -> Outputs | None:
        """Give an answer that is kept."""
        entry = self._entries.get(content)
        if entry is None:
            return None
        self._entries.move_to_end(content)
        return entry[0]

    def put(self, content: Hashable, outputs: Outputs) -> None:
        """Keep an answer, unless it alone is larger than the cache."""
        size = _ENTRY_BYTES + sum(array.nbytes for array in outputs.values())
        if size > self._max_bytes or content in self._entries:
            return
        self._entries[content] = (outputs, size)
        self.size_bytes += size
        while self.size_bytes > self._max_bytes:
            _, (_, freed) = self._entries.popitem(last=False)
            self.size_bytes -= freed

    def close(self) -> None:
        """Forget all, and keep nothing from now on."""
        self._max_bytes = self.size_bytes = 0
        self._entries.clear()


def kept(outputs: Outputs) -> Mapping[str, NDArray[Any]]:
    """Copy one item's rows out of their batch, so that keeping them keeps nothing else; read-only."""
    copies = {name: np.array(array) for name, array in outputs.items()}
    for array in copies.values():
        array.flags.writeable = False
    return copies


def _may_follow(leader: Item, item: Item, now: float) -> bool:
    """Tell whether an item that waits or runs will be done, and in time for an equal one."""
    if leader.claimed:
        return True
    one, other = leader.pending, item.pending
    return one.deadline <= other.deadline and one.priority <= other.priority and is_wanted(leader, now)


def _sample(array: NDArray[Any]) -> bytes:
    if array.nbytes <= _SMALL_BYTES:
        return array.tobytes()
    return array.reshape(-1)[:: max(1, array.size // _SAMPLES)].tobytes()
