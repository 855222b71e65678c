"""The same work once: equal items that wait or run share one execution, and answers may be kept.

Items are known by their content, not by their request: two files that decode to the same array are equal.
What waits is found by a sample of its arrays and then compared in full, which is cheap where nothing is
equal. A cache of answers cannot compare, so its models pay for a hash over everything. Used under the
batcher's lock, except for `content_of`.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.ticket import Inputs, Item, Outputs

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

    def clear(self) -> None:
        """Forget all."""
        self._items.clear()


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


def kept(outputs: Outputs) -> Mapping[str, NDArray[Any]]:
    """Copy one item's rows out of their batch, so that keeping them keeps nothing else; read-only."""
    copies = {name: np.array(array) for name, array in outputs.items()}
    for array in copies.values():
        array.flags.writeable = False
    return copies


def _sample(array: NDArray[Any]) -> bytes:
    if array.nbytes <= _SMALL_BYTES:
        return array.tobytes()
    return array.reshape(-1)[:: max(1, array.size // _SAMPLES)].tobytes()
