"""A model's queue, and how its next batch is formed and staged.

    submit ─ equal item waits or runs? follow it
       │
       ├─ admission: late? 429
       ▼
    order, by priority and due time ──── claim: the head and its company ──▶ lane runs them ─▶ settle
       └ rows of the first ones written by submitters while the lane runs the batch before

The order stays open until a lane claims from it: late bound. Rows of fixed-shape models are copied into
buffers by the threads that submit; rows of ragged models are padded after the claim, when the longest is
known. One short lock guards the queue; no copy of a row happens under it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.engine.admission import Admission, Newcomer
from service.engine.batch import Batch, BatchLimits, RowSpec
from service.engine.company import Bounds, ragged_company, uniform_company
from service.engine.observer import Observer
from service.engine.order import Order
from service.engine.sharing import AnswerCache, Flights, content_of, kept
from service.engine.ticket import Item, Settlement, Ticket, deliver
from service.errors import (
    ClientGone,
    DeadlineExceeded,
    InferenceFailed,
    NotReady,
    Overloaded,
    RequestError,
    TooLarge,
)

_PATIENCE = 4  # times the model's own deadline, after which a request stands before those that are due then


class LaneSeam(Protocol):
    """What a queue needs of a lane that serves it."""

    def wake(self) -> None:
        """Tell the lane that there may be work."""

    def delay(self, queue: Batcher, work_seconds: float, deadline: float, now: float) -> float:
        """Predict what keeps the lane from doing a model's work at once, in seconds."""


class Batcher:
    """The queue of one version of a model. Its methods may be called from any thread.

    Args:
        model: For the observer, as is `version`.
        limits: How items may share a run.
        rows: Inputs of a fixed-shape model; None for a ragged one.

    Attributes:
        lanes: Those that serve this model.
        backlog_seconds: Expected lane time of what waits, in full batches.
        pressing: Deadline of the head; infinite without one.
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
        self.lanes: tuple[LaneSeam, ...] = ()
        self.backlog_seconds = 0.0
        self.pressing = math.inf
        self._rows = rows
        self._observer = observer
        self._clock = clock
        self._lock = threading.Lock()
        self._admission = Admission(limits, uniform=rows is not None)
        self._order = Order()
        self._cache = AnswerCache(limits.cache_bytes) if limits.cache_bytes else None
        self._flights = Flights(exact=self._cache is not None)
        self._spare: list[dict[str, NDArray[Any]]] = []
        self._staged = Batch(self._buffers())
        self._purged = False
        self._closed: str | None = None
        observer.model_added(model, version)

    @property
    def uniform(self) -> bool:
        """Whether all items have one shape."""
        return self._rows is not None

    @property
    def queue_items(self) -> int:
        """Items that wait."""
        return len(self._order)

    @property
    def full_seconds(self) -> float:
        """Expected time of one full batch."""
        return self._admission.full_seconds

    @property
    def cache_size_bytes(self) -> int:
        """What the kept answers take."""
        return self._cache.size_bytes if self._cache else 0

    @property
    def predicted_wait_seconds(self) -> float:
        """How long a newcomer at the end of the queue would wait for its answer."""
        own = self._admission.wait_seconds(self._order.total_work) + self._admission.full_seconds
        return self._delay(own, math.inf) + own

    @property
    def closed(self) -> bool:
        """Whether newcomers are refused for good."""
        return self._closed is not None

    def seed(self, size: int, seconds: float) -> None:
        """Learn a batch's time from a run apart from the traffic."""
        with self._lock:
            self._admission.table.seed(size, seconds)
            self._admission.refresh()

    def submit(self, ticket: Ticket) -> None:
        """Let a request's items in, all or none, and write their rows.

        Raises:
            TooLarge: More items than the queue ever holds.
            Overloaded: The queue has no room, or somebody would be late.
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
        for item in ticket.items:
            item.submitted = now
            item.content = content_of(item.inputs, exact=self._cache is not None)
        answers: list[Settlement] = []
        dead: list[Item] = []
        try:
            with self._lock:
                if self._closed:
                    raise NotReady(self._closed, retry_after_seconds=1)
                fresh = self._let_in(ticket, now, answers, dead)
                staged = self._staged
        finally:
            self._tell_dropped(dead)
        if answers:
            ticket.post(answers)
        if fresh:
            for lane in self.lanes:
                lane.wake()
            staged.write_rows()

    def head(self) -> tuple[float, float] | None:
        """Tell about the next batch.

        Returns:
            When it may be claimed and its first item's deadline, in clock seconds; None without work.
        """
        with self._lock:
            items = self._order.items
            if not items:
                return None
            claimable = 0.0
            if self.limits.max_delay_seconds and len(items) < self.limits.max_items:
                claimable = min(item.submitted for item in items) + self.limits.max_delay_seconds
            return claimable, items[0].ticket.deadline

    def claim(self) -> Batch | None:
        """Take the most urgent item and its company; the next batch is staged from those who stay.

        Returns:
            What shall run; None where nothing is left. Items of expired and hung-up requests, and those
            that could not be in time any more, are left out and have been told.
        """
        now = self._clock()
        dead: list[Item] = []
        with self._lock:
            self._purged = False
            positions = self._choose(now, dead)
            batch = self._take(positions) if positions else None
        if batch is not None:
            batch.claimed = now
        self._tell_dropped(dead)
        return batch

    def settle(self, settlements: Sequence[Settlement]) -> None:
        """Hand results to all who wait for them, in one wake-up."""
        if self._cache is not None:
            answers = [(item.content, kept(r)) for item, r in settlements if not isinstance(r, RequestError)]
        now = self._clock()
        with self._lock:
            self._end([item for item, _ in settlements], now)
            if self._cache is not None:
                for content, outputs in answers:
                    self._cache.put(content, outputs)
        deliver([(waiter, result) for item, result in settlements for waiter in item.waiters()])

    def recycle(self, batch: Batch, seconds: float | None = None) -> None:
        """Take a finished batch's buffers back, and learn from the time it took."""
        buffers = batch.release_buffers()
        with self._lock:
            if buffers is not None and len(self._spare) < 2:
                self._spare.append(buffers)
            if seconds is not None:
                self._admission.record(batch.size, batch.work, seconds, saturated=batch.saturated)
                net_seconds = seconds - self._admission.gain * batch.company_work
                self._admission.note_taken(batch.priority, net_seconds, self._clock())

    def close(self, reason: str) -> None:
        """Refuse newcomers from now on and fail all that wait."""
        with self._lock:
            self._closed = reason
            items = self._order.take(range(len(self._order)))
            self._staged = Batch(self._buffers())
        waiters = [waiter for item in items for waiter in item.waiters()]
        for waiter in waiters:
            self._observer.item_dropped(self.model, self.version, "shutdown")
            waiter.ticket.dropped = waiter.ticket.dropped or "shutdown"
        self.settle([(item, NotReady(reason, retry_after_seconds=1)) for item in items])

    def expected_seconds(self, batch: Batch) -> float:
        """Expect a claimed batch to take so long."""
        return self._admission.table.seconds(batch.size)

    def _check_rows(self, ticket: Ticket) -> None:
        for item in ticket.items:
            for name, row in (self._rows or {}).items():
                array = item.inputs[name]
                assert array.shape == row.shape and array.dtype == np.dtype(row.dtype), (
                    f"the task made {name} {array.dtype} {array.shape}, the graph takes {row}"
                )

    def _let_in(self, ticket: Ticket, now: float, answers: list[Settlement], dead: list[Item]) -> list[Item]:
        """Sort a request's items into answered, following and fresh ones, and admit these."""
        fresh: list[Item] = []
        follows: list[tuple[Item, Item]] = []
        for item in ticket.items:
            outputs = self._cache.get(item.content) if self._cache else None
            if outputs is not None:
                answers.append((item, outputs))
                continue
            leader = self._flights.find(item)
            if leader is not None and _may_follow(leader, item):
                follows.append((leader, item))
            else:
                fresh.append(item)
                self._flights.add(item)
        if fresh:
            try:
                self._admit(fresh, ticket, now, dead)
            except Overloaded:
                for item in fresh:
                    self._flights.remove(item)
                raise
        for leader, item in follows:
            leader.followers = [*(leader.followers or ()), item]
        self._note_shared(ticket, len(answers), len(follows))
        return fresh

    def _admit(self, fresh: Sequence[Item], ticket: Ticket, now: float, dead: list[Item]) -> None:
        admission, order = self._admission, self._order
        due = min(ticket.deadline, now + _PATIENCE * self.limits.deadline_seconds)
        newcomer = Newcomer(ticket.priority, ticket.deadline, due, now)
        works = [admission.work(item.cost) for item in fresh]
        admission.note_deadline(newcomer, works[0])
        try:
            place, promised = admission.check(order, works, newcomer, self._delay)
        except Overloaded:
            if self._purged:
                raise
            self._purged = True  # once a batch: a refusal must stay cheap
            gone = order.remove_unless(lambda item: _is_wanted(item, now))
            dead += gone
            if not gone:
                raise
            place, promised = admission.check(order, works, newcomer, self._delay)
        for item, work in zip(fresh, works, strict=True):
            item.promised_seconds = promised
            order.insert(place, newcomer.priority, due, item, work)
            if place < admission.batch_size and self._staged.has_free_row:
                self._staged.stage(item)
            place += 1
        self._note_backlog()

    def _choose(self, now: float, dead: list[Item]) -> Sequence[int]:
        order = self._order
        bounds = self._bounds(now)
        while order.items:
            if self._rows is None:
                positions: Sequence[int] = ragged_company(order, bounds)
            else:
                positions = range(uniform_company(order, bounds))
            least = bounds.seconds(order.items[0].cost) if len(positions) < len(order) else 0.0
            lost = [i for i in positions if not _is_wanted(order.items[i], now, least)]
            if not lost:
                return positions
            dead += order.take(lost)
        return ()

    def _bounds(self, now: float) -> Bounds:
        admission, limits = self._admission, self.limits
        size = admission.batch_size
        if self._rows is not None:
            max_items, max_size = min(size, limits.max_items), limits.max_cost or 0
        else:
            max_items, max_size = limits.max_items, min(size, limits.max_cost or size)
        return Bounds(
            max_items,
            max_size,
            seconds=admission.table.seconds,
            full_seconds=admission.full_seconds,
            margin=admission.table.margin,
            gain=admission.gain,
            now=now,
        )

    def _take(self, positions: Sequence[int]) -> Batch:
        order = self._order
        batch = self._staged
        alike = order.rank_end(order.keys[0][0])
        batch.priority = order.keys[0][0]
        batch.work = sum(order.works[i] for i in positions)
        batch.company_work = sum(order.works[i] for i in positions if i >= alike)
        batch.close(order.take(positions))
        for item in batch.items:
            item.claimed = True
        batch.saturated = len(order) > 0
        self._note_backlog()
        self._staged = Batch(self._buffers())
        if self._rows is not None:
            for item in order.items[: self._admission.batch_size]:
                self._staged.stage(item)
        return batch

    def _note_backlog(self) -> None:
        items = self._order.items
        self.backlog_seconds = self._admission.wait_seconds(self._order.total_work)
        self.pressing = items[0].ticket.deadline if items else math.inf

    def _delay(self, work_seconds: float, deadline: float) -> float:
        now = self._clock()
        return min((lane.delay(self, work_seconds, deadline, now) for lane in self.lanes), default=0.0)

    def _tell_dropped(self, items: Sequence[Item]) -> None:
        if not items:
            return
        waiters = [waiter for item in items for waiter in item.waiters()]
        now = self._clock()
        with self._lock:
            self._end(items, now)
        settlements: list[Settlement] = []
        for waiter in waiters:
            reason = waiter.ticket.dropped or "expired"
            self._observer.item_dropped(self.model, self.version, reason)
            settlements.append((waiter, _drop_error(reason)))
        deliver(settlements)

    def _end(self, items: Sequence[Item], now: float) -> None:
        worst = 0.0
        for item in items:
            self._flights.remove(item)
            if item.promised_seconds:
                worst = max(worst, (now - item.submitted) / item.promised_seconds)
        if worst:
            self._admission.note_kept(worst)

    def _note_shared(self, ticket: Ticket, answered: int, following: int) -> None:
        if following:
            self._observer.items_shared(self.model, self.version, following)
        if self._cache is not None:
            self._observer.cache_asked(self.model, self.version, answered, len(ticket.items) - answered)

    def _buffers(self) -> dict[str, NDArray[Any]] | None:
        if self._rows is None:
            return None
        if self._spare:
            return self._spare.pop()
        size = self.limits.max_items
        return {name: np.zeros((size, *row.shape), dtype=row.dtype) for name, row in self._rows.items()}


def _may_follow(leader: Item, item: Item) -> bool:
    """Tell whether an item that waits or runs will be done in time for an equal one."""
    one, other = leader.ticket, item.ticket
    return leader.claimed or (one.deadline <= other.deadline and one.priority <= other.priority)


def _is_wanted(item: Item, now: float, least_seconds: float = 0.0) -> bool:
    """Tell whether somebody still waits for an item that needs at least so long."""
    return any(
        waiter.ticket.dropped is None and waiter.ticket.deadline > now + least_seconds
        for waiter in item.waiters()
    )


def _drop_error(reason: str) -> RequestError:
    if reason == "expired":
        return DeadlineExceeded("the deadline passed before the item could run")
    if reason == "gone":
        return ClientGone("the client hung up")
    return InferenceFailed("another item of the request failed")
