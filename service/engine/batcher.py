"""A model's queue, and how its next batch is formed and staged.

    submit ──▶ staged batch, open ──────────▶ claim ──▶ lane runs it
       │        (rows written by submitters)    │
       └─────▶ waiting, by priority/deadline ───┘ opens the next staged batch from what waits

The staged batch stays open to newcomers until a lane claims it: late bound. Rows of fixed-shape models
are copied into its buffers by the threads that submit; rows of ragged models are padded at the claim,
when the longest is known. One short lock guards the queue; no copy happens under it.
"""

from __future__ import annotations

import bisect
import itertools
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.admission import Admission
from service.engine.batch import Batch, BatchLimits, RowSpec
from service.engine.observer import Observer
from service.engine.ticket import Item, Ticket, fail
from service.errors import (
    ClientGone,
    DeadlineExceeded,
    InferenceFailed,
    NotReady,
    Overloaded,
    RequestError,
    TooLarge,
)


class Batcher:
    """The queue of one version of a model. Its methods may be called from any thread.

    Args:
        model: For the observer, as is `version`.
        limits: How items may share a run.
        rows: Inputs of a fixed-shape model; None for a ragged one.

    Attributes:
        wakers: Called after a submission: the lanes that serve this model.
    """

    def __init__(
        self,
        model: str,
        version: str,
        limits: BatchLimits,
        *,
        rows: Mapping[str, RowSpec] | None,
        observer: Observer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model = model
        self.version = version
        self.limits = limits
        self.wakers: tuple[Callable[[], None], ...] = ()
        self._rows = rows
        self._observer = observer
        self._clock = clock
        self._lock = threading.Lock()
        self._admission = Admission(max_queue_items=limits.max_queue_items, max_items=limits.max_items)
        self._spare: list[dict[str, NDArray[Any]]] = []
        self._waiting: list[tuple[int, float, int, Item]] = []
        self._sequence = itertools.count()
        self._staged = Batch(limits, self._buffers())
        self._closed: str | None = None
        observer.model_added(model, version)

    @property
    def queue_items(self) -> int:
        """Items that wait, staged ones included."""
        return len(self._waiting) + len(self._staged.items)

    @property
    def predicted_wait_seconds(self) -> float:
        """How long a newcomer would wait for its answer."""
        return self._admission.predicted_wait_seconds(self.queue_items)

    @property
    def closed(self) -> bool:
        """Whether newcomers are refused for good."""
        return self._closed is not None

    def submit(self, ticket: Ticket) -> None:
        """Let a request's items in, all or none, and write their rows.

        Raises:
            TooLarge: More items than the queue ever holds.
            Overloaded: The queue has no room.
            NotReady: The model is being unloaded or its device is gone.
            DeadlineExceeded: The deadline has already passed.
        """
        now = self._clock()
        if ticket.expired(now):
            self._observer.item_dropped(self.model, self.version, "expired")
            raise DeadlineExceeded("the deadline passed before the request reached the queue")
        most = self.limits.max_queue_items
        if len(ticket.items) > most:
            raise TooLarge(f"the request makes {len(ticket.items)} items; the model's queue holds {most}")
        self._check_rows(ticket)
        with self._lock:
            if self._closed:
                raise NotReady(self._closed, retry_after_seconds=1)
            self._admit(len(ticket.items), now)
            for item in ticket.items:
                item.submitted = now
                self._place(item)
            staged = self._staged
        for wake in self.wakers:
            wake()
        staged.write_rows()

    def head(self) -> tuple[float, float] | None:
        """Tell about the next batch.

        Returns:
            When it may be claimed and its first item's deadline, in clock seconds; None without work.
        """
        with self._lock:
            items = self._staged.items
            if not items:
                return None
            full = len(items) >= self.limits.max_items or bool(self._waiting)
            claimable = 0.0 if full else items[0].submitted + self.limits.max_delay_seconds
            return claimable, min(item.ticket.deadline for item in items)

    def claim(self) -> tuple[Batch, list[int]] | None:
        """Close the staged batch and take it; open the next one from what waits.

        Returns:
            The batch and the rows that shall run. Rows of expired and hung-up requests are left out and
            have been told; None where nothing is left to run.
        """
        now = self._clock()
        with self._lock:
            batch = self._staged
            if not batch.items:
                return None
            batch.claimed = now
            self._staged = Batch(self.limits, self._buffers())
            self._refill()
        keep = [row for row, item in enumerate(batch.items) if self._still_wanted(item, now)]
        if keep:
            return batch, keep
        self.recycle(batch)
        return None

    def recycle(self, batch: Batch, seconds: float | None = None) -> None:
        """Take a finished batch's buffers back, and learn from the time it took."""
        buffers = batch.release_buffers()
        with self._lock:
            if buffers is not None and len(self._spare) < 2:
                self._spare.append(buffers)
            if seconds is not None:
                self._admission.record(seconds)

    def close(self, reason: str) -> None:
        """Refuse newcomers from now on and fail all that wait."""
        with self._lock:
            self._closed = reason
            items = [*self._staged.items, *(entry[-1] for entry in self._waiting)]
            self._waiting.clear()
            self._staged = Batch(self.limits, self._buffers())
        for item in items:
            self._observer.item_dropped(self.model, self.version, "shutdown")
            item.ticket.dropped = item.ticket.dropped or "shutdown"
        fail(items, NotReady(reason, retry_after_seconds=1))

    def _check_rows(self, ticket: Ticket) -> None:
        for item in ticket.items:
            for name, row in (self._rows or {}).items():
                array = item.inputs[name]
                assert array.shape == row.shape and array.dtype == np.dtype(row.dtype), (
                    f"the task made {name} {array.dtype} {array.shape}, the graph takes {row}"
                )

    def _admit(self, new_items: int, now: float) -> None:
        try:
            self._admission.check(self.queue_items, new_items)
        except Overloaded:
            self._waiting = [entry for entry in self._waiting if self._still_wanted(entry[-1], now)]
            self._admission.check(self.queue_items, new_items)

    def _place(self, item: Item) -> None:
        if self._staged.has_room_for(item.cost):
            self._staged.add(item)
            return
        entry = (item.ticket.priority, item.ticket.deadline, next(self._sequence), item)
        bisect.insort(self._waiting, entry)

    def _refill(self) -> None:
        """Move what fits from the waiting list to the new staged batch; the most urgent always goes."""
        left = []
        for entry in self._waiting:
            if self._staged.has_room_for(entry[-1].cost):
                self._staged.add(entry[-1])
            else:
                left.append(entry)
        self._waiting = left

    def _still_wanted(self, item: Item, now: float) -> bool:
        ticket = item.ticket
        if ticket.dropped is None and not ticket.expired(now):
            return True
        reason = ticket.dropped or "expired"
        self._observer.item_dropped(self.model, self.version, reason)
        fail([item], _drop_error(reason))
        return False

    def _buffers(self) -> dict[str, NDArray[Any]] | None:
        if self._rows is None:
            return None
        if self._spare:
            return self._spare.pop()
        size = self.limits.max_items
        return {name: np.zeros((size, *row.shape), dtype=row.dtype) for name, row in self._rows.items()}


def _drop_error(reason: str) -> RequestError:
    if reason == "expired":
        return DeadlineExceeded("the deadline passed before the item could run")
    if reason == "gone":
        return ClientGone("the client hung up")
    return InferenceFailed("another item of the request failed")
