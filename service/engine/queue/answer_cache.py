"""Answers that are kept for equal items of later requests, in a bounded amount of memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.queue.pending_request import Outputs

_ENTRY_BYTES = 256  # estimated size of an entry without its arrays


class AnswerCache:
    """Answers by content. The least recently used ones are evicted first.

    Args:
        max_bytes: Largest size of the cache.

    Attributes:
        size_bytes: Present size.
    """

    def __init__(self, max_bytes: int) -> None:
        self.size_bytes = 0
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, tuple[Outputs, int]] = OrderedDict()

    def get(self, content: Hashable) -> Outputs | None:
        """Return a cached answer, or None."""
        entry = self._entries.get(content)
        if entry is None:
            return None
        self._entries.move_to_end(content)
        return entry[0]

    def put(self, content: Hashable, outputs: Outputs) -> None:
        """Cache an answer, unless it alone is larger than the cache."""
        size = _ENTRY_BYTES + sum(array.nbytes for array in outputs.values())
        if size > self._max_bytes or content in self._entries:
            return
        self._entries[content] = (outputs, size)
        self.size_bytes += size
        while self.size_bytes > self._max_bytes:
            _, (_, freed) = self._entries.popitem(last=False)
            self.size_bytes -= freed

    def close(self) -> None:
        """Remove all answers, and cache nothing from now on."""
        self._max_bytes = self.size_bytes = 0
        self._entries.clear()


def copied_outputs(outputs: Outputs) -> Mapping[str, NDArray[Any]]:
    """Return read-only copies of one item's outputs, so that the cache does not hold its whole batch."""
    copies = {name: np.array(array) for name, array in outputs.items()}
    for array in copies.values():
        array.flags.writeable = False
    return copies
