"""A batch: items that run together, and the arrays that they are written to while it is staged."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.queue.pending_request import Inputs, Item
from service.engine.runtime.shape_buckets import Buckets


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How items of one model may share a run; see `service.repository.manifest.Batching` for the meanings.

    Attributes:
        deadline_seconds: What a request has that names no deadline of its own.
        answer_cache_bytes: Size of the cache of answers; 0 is none.
    """

    max_items: int = 32
    max_cost: int | None = None
    max_delay_seconds: float = 0.0
    max_queue_items: int = 512
    deadline_seconds: float = 1.0
    answer_cache_bytes: int = 0


@dataclass(frozen=True, slots=True)
class RowSpec:
    """Shape, without the batch axis, and dtype of a fixed-shape input."""

    shape: tuple[int, ...]
    dtype: str


class Batch:
    """Items that run together; with buffers, their rows are written while they still wait.

    Several threads write rows while the batch is open. `_unwritten` holds the rows that no thread has taken
    yet, so that a claiming lane copies the rest itself instead of waiting for a thread to be scheduled.

    Args:
        buffers: Arrays for the rows of fixed-shape inputs; None for ragged ones, stacked before the run.
        buckets: The shapes that batches are padded to; None where they are not.

    Attributes:
        items: The items that run, once the batch is claimed.
        work: Work of the items, in the unit of `Admission.work`.
        lower_priority_work: Part of `work` that has a lower priority than the first item.
        priority: Priority of the first item.
        claimed: When it was claimed, in clock seconds.
        saturated: Whether other items were left waiting.
    """

    def __init__(self, buffers: dict[str, NDArray[Any]] | None, buckets: Buckets | None = None) -> None:
        self.items: Sequence[Item] = ()
        self.work = 0.0
        self.lower_priority_work = 0.0
        self.priority = 0
        self.claimed = 0.0
        self.saturated = False
        self._buffers = buffers
        self._ragged = buffers is None
        self._buckets = buckets
        self._rows: dict[Item, int] = {}
        self._abandoned_rows: list[int] = []
        self._unwritten: list[tuple[Item, int]] = []
        self._late: list[tuple[Item, int]] = []
        self._writing = 0
        self._written = threading.Condition()

    @property
    def size(self) -> int:
        """Padded cost; of the shape bucket, where there is one."""
        if self._buckets is None:
            return padded_cost(self.items)
        cost = max(item.cost for item in self.items)
        return self._buckets.items(len(self.items)) * (self._buckets.length(cost) if self._ragged else cost)

    @property
    def padding_ratio(self) -> float:
        """Padded cost over real cost."""
        total = sum(item.cost for item in self.items)
        return self.size / total if total else 1.0

    @property
    def has_free_row(self) -> bool:
        """Whether the row of one more item can be staged."""
        return self._buffers is not None and self._used_rows < len(next(iter(self._buffers.values())))

    @property
    def staged_items(self) -> Sequence[Item]:
        """The items that have a row."""
        return tuple(self._rows)

    @property
    def _used_rows(self) -> int:
        return len(self._rows) + len(self._abandoned_rows)

    def stage(self, item: Item) -> None:
        """Assign a row to an item; `write_rows` fills it."""
        row = self._rows[item] = self._used_rows
        with self._written:
            self._unwritten.append((item, row))

    def unstage(self, items: Iterable[Item]) -> None:
        """Forget items that will not run here.

        A thread may still write to their rows, so they are used again only in `close`.
        """
        self._abandoned_rows += [self._rows.pop(item) for item in items if item in self._rows]

    def close(self, items: Sequence[Item]) -> None:
        """Set the items that run. Those without a row get one that is free or abandoned."""
        self.items = items
        missing = [item for item in items if item not in self._rows]
        if self._buffers is None or not missing:
            return
        running = set(items)
        self.unstage([item for item in self._rows if item not in running])
        for item in missing:
            if self.has_free_row:
                self.stage(item)
            else:
                row = self._rows[item] = self._abandoned_rows.pop()
                self._late.append((item, row))

    def write_rows(self) -> None:
        """Copy the rows that no thread has taken yet. May be called from several threads."""
        if self._buffers is None:
            return
        while True:
            with self._written:
                if not self._unwritten:
                    return
                item, row = self._unwritten.pop()
                self._writing += 1
            try:
                self._write(item, row)
            finally:
                with self._written:
                    self._writing -= 1
                    self._written.notify_all()

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the inputs of the items, batch axis first, once every row is written."""
        if self._buffers is None:
            return stack([item.inputs for item in self.items])
        self._finish_writing()
        for item, row in self._late:
            self._write(item, row)
        rows = [self._rows[item] for item in self.items]
        if rows == list(range(len(rows))):
            return {name: buffer[: len(rows)] for name, buffer in self._buffers.items()}
        return {name: buffer[rows] for name, buffer in self._buffers.items()}

    def note_times(self, infer_seconds: float) -> None:
        """Set on the requests how long their items waited and ran."""
        for waiter in (waiter for item in self.items for waiter in item.waiters()):
            pending = waiter.pending
            pending.queue_seconds = max(pending.queue_seconds, self.claimed - waiter.submitted)
            pending.infer_seconds = max(pending.infer_seconds, infer_seconds)
            pending.batch_items = max(pending.batch_items, len(self.items))

    def release_buffers(self) -> dict[str, NDArray[Any]] | None:
        """Return the buffers after the run, once no thread writes to them."""
        self._finish_writing()
        buffers, self._buffers = self._buffers, None
        return buffers

    def _write(self, item: Item, row: int) -> None:
        assert self._buffers is not None, "rows are written before the buffers go back"
        for name, buffer in self._buffers.items():
            np.copyto(buffer[row], item.inputs[name], casting="no")

    def _finish_writing(self) -> None:
        self.write_rows()
        with self._written:
            self._written.wait_for(lambda: self._writing == 0)


def padded_cost(items: Sequence[Item]) -> int:
    """Return the cost of items that run together: each counts as the largest."""
    return max(item.cost for item in items) * len(items)


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
