"""A model's queue: admission, order, and the next batch.

    submit ─ does an equal item wait or run? then share its answer
       │
       ├─ admission: would an item be late? then 429
       ▼
    order, by priority and due time ──── claim: the next batch ──▶ a lane runs it ─▶ settle
       └ the first rows are written by submitting threads while the lane runs the previous batch

Items may join the next batch until a lane claims it. Rows of fixed-shape models are copied into buffers by
the threads that submit. Rows of ragged models are padded after the claim, when the longest is known. One
short lock guards the queue; no row is copied under it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from service.engine.observer import Observer
from service.engine.queue.admission import Admission
from service.engine.queue.batch import Batch, BatchLimits, RowSpec
from service.engine.queue.batch_selection import select_batch
from service.engine.queue.deduplication import Deduplication, ItemsByNeed
from service.engine.queue.pending_request import (
    Item,
    PendingRequest,
    Settlement,
    deliver,
    drop_error,
    is_wanted,
)
from service.engine.queue.queue_order import QueueOrder
from service.engine.queue.staging import Allocate, Staging
from service.engine.runtime.memory import KnownLimit
from service.engine.runtime.shape_buckets import Buckets
from service.errors import DeadlineExceeded, NotReady, Overloaded, TooLarge

_QUICK_SECONDS = 0.005  # for shorter runs, waking the lane for each request costs more than it gains
_REFUSAL_SECONDS = 0.1  # how long after a refusal `check` looks at the queue


class LaneSeam(Protocol):
    """What a queue needs of a lane that serves it."""

    def wake(self) -> None:
        """Signal that there may be work."""

    def delay(self, queue: Batcher, work_seconds: float, deadline: float, now: float) -> float:
        """Return the seconds until the lane is expected to start a model's work."""


class Batcher:
    """The queue of one version of a model. Its methods may be called from any thread.

    Args:
        model: For the observer, as is `version`.
        limits: How items may share a run.
        rows: Inputs of a fixed-shape model; None for a ragged one.
        buckets: The shapes that its sessions pad batches to; None where they do not.
        allocate: Makes the buffers that rows are written to, as `np.zeros` does.

    Invariant: what the queue says equals what is in it, always. `queue_items`, `backlog_seconds` and
    `pressing` are computed from the items that wait whenever they are read, and only items that wait have a
    row in the open batch.
    """

    def __init__(
        self,
        model: str,
        version: str,
        limits: BatchLimits,
        *,
        rows: Mapping[str, RowSpec] | None,
        observer: Observer,
        buckets: Buckets | None = None,
        allocate: Allocate = np.zeros,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model = model
        self.version = version
        self.limits = limits
        self._uniform = rows is not None
        self._observer = observer
        self._clock = clock
        self._lock = threading.Lock()
        self._lanes: tuple[LaneSeam, ...] = ()
        self._admission = Admission(limits, uniform=rows is not None)
        self._memory = KnownLimit()
        self._order = QueueOrder()
        self._deduplication = Deduplication(limits.answer_cache_bytes)
        self._staging = Staging(rows, limits.max_items, buckets, allocate)
        self._purged = False
        self._refused = -math.inf
        self._wake_due = False
        self._closed: str | None = None
        observer.model_added(model, version)
        self._tell_cache_size()

    @property
    def lanes(self) -> tuple[LaneSeam, ...]:
        """Those that serve this model."""
        return self._lanes

    @lanes.setter
    def lanes(self, lanes: tuple[LaneSeam, ...]) -> None:
        self._lanes = lanes
        self._admission.lanes = max(1, len(lanes))

    @property
    def uniform(self) -> bool:
        """Whether all items have one shape."""
        return self._uniform

    @property
    def queue_items(self) -> int:
        """Items that wait."""
        return len(self._order)

    @property
    def backlog_seconds(self) -> float:
        """Expected lane time of the items that wait, in full batches."""
        return self._admission.wait_seconds(self._order.total_work)

    @property
    def pressing(self) -> float:
        """Deadline of the first item in clock seconds; infinite without items."""
        return self._order.first_deadline

    @property
    def full_seconds(self) -> float:
        """Expected time of one full batch."""
        return self._admission.full_seconds

    @property
    def tight_seconds(self) -> float:
        """The deadline that most requests have at least."""
        return self._admission.tight_seconds

    @property
    def predicted_wait_seconds(self) -> float:
        """Expected seconds until the batch of a new request at the end of the queue starts; 0 when idle."""
        return self._seconds_until_done(self.backlog_seconds)

    @property
    def predicted_answer_seconds(self) -> float:
        """Expected seconds until a new request at the end of the queue has its answer."""
        return self._seconds_until_done(self.backlog_seconds + self.full_seconds)

    @property
    def is_refusing(self) -> bool:
        """Whether a request was refused in the last tenth of a second; never with an answer cache."""
        return self._clock() <= self._refused + _REFUSAL_SECONDS and not self._deduplication.has_cache

    @property
    def closed(self) -> bool:
        """Whether new requests are refused for good."""
        return self._closed is not None

    def seed(self, size: int, seconds: float) -> None:
        """Set the time of a batch size, measured outside of the traffic."""
        with self._lock:
            self._admission.table.seed(size, seconds)
            self._admission.refresh()

    def check(self, priority: int, deadline: float, coming: int) -> None:
        """Refuse what `submit` would refuse, shortly after a refusal; see `RequestQueue.check`."""
        now = self._clock()
        if not self.is_refusing:
            return
        least = self._admission.work(1)
        with self._lock:
            asking, ahead = self._admission.urgency(priority, deadline, now), coming * least
            self._admission.check(self._order, [least], asking, self._delays, ahead=ahead, is_asking=True)

    def submit(self, pending: PendingRequest, *, on_loop: bool = False) -> None:
        """Admit a request's items, all or none, and write their rows.

        Args:
            pending: The request.
            on_loop: Whether this is called on the request's event loop. The lanes of a quick model are then
                woken once, at the end of the loop's iteration, because they compete with it for a core.

        Raises:
            TooLarge: More items than the queue ever holds.
            Overloaded: The queue has no room, or an item would be late.
            NotReady: The model is being unloaded or its device is gone.
            DeadlineExceeded: The deadline has already passed.
        """
        now = self._clock()
        if pending.expired(now):
            self._observer.item_dropped(self.model, self.version, "expired")
            raise DeadlineExceeded("the deadline passed before the request reached the queue")
        most = self.limits.max_queue_items
        if len(pending.items) > most:
            raise TooLarge(f"the request makes {len(pending.items)} items; the model's queue holds {most}")
        self._staging.check(pending.items)
        for item in pending.items:
            item.submitted = now
            self._deduplication.set_content(item)
        dead: list[Item] = []
        try:
            with self._lock:
                if self._closed:
                    raise NotReady(self._closed, retry_after_seconds=1)
                found = self._let_in(pending, now, dead)
                staged = self._staging.open
        finally:
            self._tell_dropped(dead)
        if found.answers:
            pending.post(found.answers)
        if found.fresh:
            if not (on_loop and self._admission.table.seconds(1) < _QUICK_SECONDS):
                self._wake()
            elif not self._wake_due:
                self._wake_due = True
                pending.loop.call_soon(self._wake)
            staged.write_rows()
        self._tell_shared(pending, found)

    def head(self) -> tuple[float, float] | None:
        """Return when the next batch may be claimed and its first item's deadline, in clock seconds.

        None if nothing waits.
        """
        with self._lock:
            items = self._order.items
            if not items:
                return None
            claimable = 0.0
            if self.limits.max_delay_seconds and len(items) < self.limits.max_items:
                claimable = min(item.submitted for item in items) + self.limits.max_delay_seconds
            return claimable, items[0].pending.deadline

    def claim(self, patience_seconds: float = math.inf) -> Batch | None:
        """Take the next batch out of the queue, and stage the one after it.

        Args:
            patience_seconds: Longest time of a batch, for the sake of other models on the lane.

        Returns:
            The batch; None if no item is left. Items whose requests expired or were abandoned, and items that
            cannot be in time any more, are dropped and their waiters get an error.
        """
        now = self._clock()
        dead: list[Item] = []
        with self._lock:
            self._purged = False
            if self._memory.lapses(now):
                self._admission.bound(None)
            self._admission.be_patient(patience_seconds)
            positions = self._choose(now, dead)
            batch = self._take(positions) if positions else None
        if batch is not None:
            batch.claimed = now
        self._tell_dropped(dead)
        return batch

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Deliver results to all waiters, in one wake-up of the event loop."""
        copies = self._deduplication.copies(settlements)
        now = self._clock()
        with self._lock:
            self._end([item for item, _ in settlements], now)
            self._deduplication.keep(copies)
        deliver([(waiter, result) for item, result in settlements for waiter in item.waiters()])
        if copies:
            self._tell_cache_size()

    def recycle(self, batch: Batch, seconds: float | None = None) -> None:
        """Reuse the buffers of a finished batch, and learn from its time."""
        buffers = batch.release_buffers()
        with self._lock:
            self._staging.reuse(buffers, len(self._lanes))
            if seconds is not None:
                self._admission.record(batch.size, batch.work, seconds, saturated=batch.saturated)
                net_seconds = seconds - self._admission.gain * batch.lower_priority_work
                self._admission.note_taken(batch.priority, net_seconds, self._clock())

    def note_out_of_memory(self, size: int) -> None:
        """Limit batches to half this padded cost for some minutes, because it did not fit the device."""
        with self._lock:
            self._admission.bound(self._memory.note_failure(size, self._clock()))

    def close(self, reason: str) -> None:
        """Refuse new requests from now on and fail all that wait."""
        with self._lock:
            self._closed = reason
            items = self._order.take(range(len(self._order)))
            self._staging.close(())
            self._deduplication.close()
        waiters = [waiter for item in items for waiter in item.waiters()]
        for waiter in waiters:
            self._observer.item_dropped(self.model, self.version, "shutdown")
            waiter.pending.dropped = waiter.pending.dropped or "shutdown"
        self.settle([(item, NotReady(reason, retry_after_seconds=1)) for item in items])
        self._tell_cache_size()

    def expected_seconds(self, batch: Batch) -> float:
        """Return the expected time of a claimed batch."""
        return self._admission.table.seconds(batch.size)

    def _wake(self) -> None:
        self._wake_due = False
        for lane in self.lanes:
            lane.wake()

    def _let_in(self, pending: PendingRequest, now: float, dead: list[Item]) -> ItemsByNeed:
        """Sort a request's items by what has to be done for them, and admit those that must run."""
        found = self._deduplication.sort(pending.items, now)
        if found.fresh:
            try:
                self._admit(found.fresh, pending, now, dead)
            except Overloaded:
                for item in found.fresh:
                    self._deduplication.end(item)
                raise
        for leader, item in found.follows:
            leader.followers = [*(leader.followers or ()), item]
        return found

    def _admit(self, fresh: Sequence[Item], pending: PendingRequest, now: float, dead: list[Item]) -> None:
        admission, order = self._admission, self._order
        urgency = self._admission.urgency(pending.priority, pending.deadline, now)
        works = [admission.work(item.cost) for item in fresh]
        admission.note_deadline(urgency, works[0])
        try:
            place, predicted = admission.check(order, works, urgency, self._delays)
        except Overloaded:
            self._refused = now
            if self._purged:
                raise
            self._purged = True  # once a batch: a refusal must stay cheap
            gone = order.remove_unless(lambda item: is_wanted(item, now))
            self._drop(gone, now, dead)
            if not gone:
                raise
            place, predicted = admission.check(order, works, urgency, self._delays)
        for position, (item, work) in enumerate(zip(fresh, works, strict=True), place):
            item.predicted_seconds = predicted
            order.insert(position, urgency.priority, urgency.due, item, work)
        if place < admission.batch_size:
            self._staging.stage(fresh[: admission.batch_size - place])

    def _choose(self, now: float, dead: list[Item]) -> Sequence[int]:
        order = self._order
        bounds = self._admission.bounds_at(now, len(self._order))
        while order.items:
            positions = select_batch(order, bounds)
            least = bounds.seconds(order.items[0].cost) if len(positions) < len(order) else 0.0
            lost = [i for i in positions if not is_wanted(order.items[i], now, least)]
            if not lost:
                return positions
            self._drop(order.take(lost), now, dead)
        return ()

    def _take(self, positions: Sequence[int]) -> Batch:
        order = self._order
        priority = order.keys[0][0]
        alike = order.rank_end(priority)
        work = sum(order.works[i] for i in positions)
        lower_priority_work = sum(order.works[i] for i in positions if i >= alike)
        batch = self._staging.close(order.take(positions))
        batch.priority, batch.work, batch.lower_priority_work = priority, work, lower_priority_work
        for item in batch.items:
            item.claimed = True
        batch.saturated = len(order) > 0
        self._staging.stage(order.items[: self._admission.batch_size])
        return batch

    def _seconds_until_done(self, work_seconds: float) -> float:
        return self._delays(work_seconds, math.inf)[0] + work_seconds

    def _delays(self, work_seconds: float, deadline: float) -> Sequence[float]:
        now, lanes = self._clock(), self._lanes
        return sorted(lane.delay(self, work_seconds, deadline, now) for lane in lanes) or (0.0,)

    def _drop(self, items: Sequence[Item], now: float, dead: list[Item]) -> None:
        """Forget items that left the queue without running. Their waiters are told outside of the lock."""
        self._staging.open.unstage(items)
        self._end(items, now)
        dead += items

    def _tell_dropped(self, items: Sequence[Item]) -> None:
        settlements: list[Settlement] = []
        for waiter in (waiter for item in items for waiter in item.waiters()):
            reason = waiter.pending.dropped or "expired"
            self._observer.item_dropped(self.model, self.version, reason)
            settlements.append((waiter, drop_error(reason)))
        deliver(settlements)

    def _end(self, items: Sequence[Item], now: float) -> None:
        worst = 0.0
        for item in items:
            self._deduplication.end(item)
            if item.predicted_seconds:
                worst = max(worst, (now - item.submitted) / item.predicted_seconds)
        if worst:
            self._admission.note_ratio(worst, now)

    def _tell_shared(self, pending: PendingRequest, found: ItemsByNeed) -> None:
        if found.follows:
            self._observer.items_shared(self.model, self.version, len(found.follows))
        if self._deduplication.has_cache:
            hits = len(found.answers)
            self._observer.cache_asked(self.model, self.version, hits, len(pending.items) - hits)

    def _tell_cache_size(self) -> None:
        if self._deduplication.has_cache:
            self._observer.cache_sized(self.model, self.version, self._deduplication.cache_size_bytes)
