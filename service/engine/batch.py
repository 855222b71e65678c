"""A batch: items that run together, and the arrays that they are written to while it is staged."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.ticket import Inputs, Item

# Padding may make a batch of unequal items at most this much dearer than their real cost.
_MAX_PADDING_RATIO = 1.25


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How items of one model may share a run; see `service.manifest.Batching` for the meanings."""

    max_items: int = 32
    max_cost: int | None = None
    max_delay_seconds: float = 0.0
    max_queue_items: int = 512


@dataclass(frozen=True, slots=True)
class RowSpec:
    """Shape, without the batch axis, and dtype of a fixed-shape input."""

    shape: tuple[int, ...]
    dtype: str


class Batch:
    """Items that run together, and the arrays they are written to.

    Filled by several threads while it is open: `_unwritten` holds the rows that no thread has taken yet,
    so a claiming lane copies what is left itself instead of waiting for somebody to be scheduled.
    """

    def __init__(self, limits: BatchLimits, buffers: dict[str, NDArray[Any]] | None) -> None:
        self.items: list[Item] = []
        self.claimed = 0.0
        self._limits = limits
        self._buffers = buffers
        self._unwritten: list[int] = []
        self._writing = 0
        self._written = threading.Condition()
        self._largest = 0
        self._total = 0

    @property
    def padding_ratio(self) -> float:
        """Padded cost over real cost."""
        return self._largest * len(self.items) / self._total if self._total else 1.0

    def has_room_for(self, cost: int) -> bool:
        """Tell whether one more item keeps within count, padded cost and padding."""
        count = len(self.items) + 1
        if count == 1:
            return True
        padded = count * max(self._largest, cost)
        max_cost = self._limits.max_cost
        if count > self._limits.max_items or (max_cost is not None and padded > max_cost):
            return False
        return padded <= _MAX_PADDING_RATIO * (self._total + cost)

    def add(self, item: Item) -> None:
        """Take an item in; its row is written later, by `write_rows`."""
        with self._written:
            self._unwritten.append(len(self.items))
        self.items.append(item)
        self._largest = max(self._largest, item.cost)
        self._total += item.cost

    def write_rows(self) -> None:
        """Copy rows that nobody has copied yet. Any thread may help."""
        if self._buffers is None:
            return
        while True:
            with self._written:
                if not self._unwritten:
                    return
                row = self._unwritten.pop()
                self._writing += 1
            try:
                for name, buffer in self._buffers.items():
                    np.copyto(buffer[row], self.items[row].inputs[name], casting="no")
            finally:
                with self._written:
                    self._writing -= 1
                    self._written.notify_all()

    def arrays(self, keep: Sequence[int]) -> dict[str, NDArray[Any]]:
        """Give the inputs of the kept rows, batch axis first, once every row is written."""
        if self._buffers is None:
            return stack([self.items[i].inputs for i in keep])
        self._finish_writing()
        if len(keep) == len(self.items):
            return {name: buffer[: len(keep)] for name, buffer in self._buffers.items()}
        return {name: buffer[list(keep)] for name, buffer in self._buffers.items()}

    def release_buffers(self) -> dict[str, NDArray[Any]] | None:
        """Give the buffers back, after the run; nobody writes to them any more."""
        self._finish_writing()
        buffers, self._buffers = self._buffers, None
        return buffers

    def _finish_writing(self) -> None:
        self.write_rows()
        with self._written:
            self._written.wait_for(lambda: self._writing == 0)


def stack(rows: Sequence[Inputs]) -> dict[str, NDArray[Any]]:
    """Stack rows along a new first axis, padding shorter ones with zeros at the end of each axis."""
    stacked = {}
    for name, first in rows[0].items():
        arrays = [row[name] for row in rows]
        shape = tuple(max(sizes) for sizes in zip(*(array.shape for array in arrays), strict=True))
        if all(array.shape == shape for array in arrays):
            stacked[name] = np.stack(arrays)
            continue
        padded = np.zeros((len(arrays), *shape), dtype=first.dtype)
        for target, array in zip(padded, arrays, strict=True):
            target[tuple(slice(size) for size in array.shape)] = array
        stacked[name] = padded
    return stacked
