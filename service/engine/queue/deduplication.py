"""Equal items that wait or run share one execution.

Items are compared by content, not by request: two files that decode to the same array are equal. An item is
found by a sample of its arrays and then compared in full, which is cheap where nothing is equal. With an
answer cache it is found by a hash of all arrays, because a cache keeps no inputs to compare with. Used under
the batcher's lock, except where stated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.queue.answer_cache import AnswerCache, copied_outputs
from service.engine.queue.pending_request import Inputs, Item, Outputs, Settlement, is_wanted
from service.errors import RequestError

_SMALL_BYTES = 4096  # arrays up to this size are compared in full
_SAMPLES = 128


def content_of(inputs: Inputs, *, exact: bool) -> Hashable:
    """Return a key for an item's arrays.

    Args:
        inputs: The arrays.
        exact: Whether equal keys must mean equal arrays. All of the arrays are hashed then.
    """
    if exact:
        digest = hashlib.blake2b(digest_size=16)
        for name, array in inputs.items():
            digest.update(f"{name} {array.dtype} {array.shape};".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.digest()
    return tuple((array.shape, _sample(array)) for array in inputs.values())


def are_equal(one: Inputs, other: Inputs) -> bool:
    """Return whether two items have the same arrays."""
    return one.keys() == other.keys() and all(
        array.dtype == other[name].dtype and np.array_equal(array, other[name]) for name, array in one.items()
    )


@dataclass(slots=True)
class ItemsByNeed:
    """The items of a request, by what has to be done for them.

    Attributes:
        answers: Items with an answer from the cache.
        follows: Pairs of a leader, which waits or runs, and an equal item that gets the leader's answer.
        fresh: Items that must run.
    """

    answers: list[Settlement] = field(default_factory=list)
    follows: list[tuple[Item, Item]] = field(default_factory=list)
    fresh: list[Item] = field(default_factory=list)


class Deduplication:
    """The items of one queue that wait or run, by content, and the cache of answers.

    Args:
        cache_bytes: Size of the cache of answers; 0 means none.
    """

    def __init__(self, cache_bytes: int) -> None:
        self.has_cache = cache_bytes > 0
        self._cache = AnswerCache(cache_bytes)
        self._leaders: dict[Hashable, Item] = {}

    @property
    def cache_size_bytes(self) -> int:
        """Size of the cached answers."""
        return self._cache.size_bytes

    def set_content(self, item: Item) -> None:
        """Set the key by which an item is found. Needs no lock."""
        item.content = content_of(item.inputs, exact=self.has_cache)

    def sort(self, items: Iterable[Item], now: float) -> ItemsByNeed:
        """Look for answers and equal items. Later items may follow the fresh ones from now on."""
        found = ItemsByNeed()
        for item in items:
            outputs = self._cache.get(item.content)
            if outputs is not None:
                found.answers.append((item, outputs))
                continue
            leader = self._find(item)
            if leader is not None and _may_follow(leader, item, now):
                found.follows.append((leader, item))
            else:
                found.fresh.append(item)
                self._leaders[item.content] = item
        return found

    def end(self, item: Item) -> None:
        """Let no more items follow this one."""
        if self._leaders.get(item.content) is item:
            del self._leaders[item.content]

    def copies(self, settlements: Sequence[Settlement]) -> Sequence[tuple[Hashable, Outputs]]:
        """Return copies of the answers among some results, for `keep`. Needs no lock."""
        if not self.has_cache:
            return ()
        return [
            (item.content, copied_outputs(result))
            for item, result in settlements
            if not isinstance(result, RequestError)
        ]

    def keep(self, copies: Sequence[tuple[Hashable, Outputs]]) -> None:
        """Put answers into the cache."""
        for content, outputs in copies:
            self._cache.put(content, outputs)

    def close(self) -> None:
        """Empty the cache, and cache nothing from now on."""
        self._cache.close()

    def _find(self, item: Item) -> Item | None:
        found = self._leaders.get(item.content)
        if found is None or (not self.has_cache and not are_equal(found.inputs, item.inputs)):
            return None
        return found


def _may_follow(leader: Item, item: Item, now: float) -> bool:
    """Return whether the leader runs, or will run at least as early as the item would."""
    if leader.claimed:
        return True
    one, other = leader.pending, item.pending
    return one.deadline <= other.deadline and one.priority <= other.priority and is_wanted(leader, now)


def _sample(array: NDArray[Any]) -> bytes:
    if array.nbytes <= _SMALL_BYTES:
        return array.tobytes()
    return array.reshape(-1)[:: max(1, array.size // _SAMPLES)].tobytes()
