"""The next batch, whose rows are written while the lane runs the previous one.

Only models of a fixed shape are staged; ragged rows are padded after the claim, when the longest is known.
Used under the batcher's lock, except for `check` and for writing rows, which `Batch` guards itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.queue.batch import Batch, RowSpec
from service.engine.queue.pending_request import Item
from service.engine.runtime.shape_buckets import Buckets

_MOST_SPARE = 2

Buffers = dict[str, NDArray[Any]]
Allocate = Callable[[tuple[int, ...], str], NDArray[Any]]


class Staging:
    """The open batch, and the buffers that are reused.

    Args:
        rows: Inputs of a fixed-shape model; None for a ragged one, of which nothing is staged.
        max_items: Rows of a buffer.
        buckets: The shapes that batches are padded to; None where they are not.
        allocate: Makes zeros of a shape and dtype, where the device copies them from fastest.

    Attributes:
        open: The next batch, which no lane has claimed.
    """

    def __init__(
        self,
        rows: Mapping[str, RowSpec] | None,
        max_items: int,
        buckets: Buckets | None = None,
        allocate: Allocate = np.zeros,
    ) -> None:
        self._rows = rows
        self._max_items = max_items
        self._buckets = buckets
        self._allocate = allocate
        self._spare: list[Buffers] = []
        self.open = Batch(self._buffers(), self._buckets)

    def check(self, items: Sequence[Item]) -> None:
        """Assert that the graph takes the items. A wrong shape is a fault of the task, not of a client."""
        for name, row in (self._rows or {}).items():
            for item in items:
                array = item.inputs[name]
                assert array.shape == row.shape and array.dtype == np.dtype(row.dtype), (
                    f"the task made {name} {array.dtype} {array.shape}, the graph takes {row}"
                )

    def stage(self, items: Sequence[Item]) -> None:
        """Assign rows of the open batch to items while it has free ones."""
        for item in items:
            if not self.open.has_free_row:
                return
            self.open.stage(item)

    def close(self, items: Sequence[Item]) -> Batch:
        """Set the items that run in the open batch, return it, and open another."""
        batch = self.open
        batch.close(items)
        self.open = Batch(self._buffers(), self._buckets)
        return batch

    def reuse(self, buffers: Buffers | None, lanes: int) -> None:
        """Keep the buffers of a finished batch for another one; each lane may hold two batches."""
        if buffers is not None and len(self._spare) < _MOST_SPARE * max(1, lanes):
            self._spare.append(buffers)

    def _buffers(self) -> Buffers | None:
        if self._rows is None:
            return None
        if self._spare:
            return self._spare.pop()
        size = self._max_items
        return {name: self._allocate((size, *row.shape), row.dtype) for name, row in self._rows.items()}
