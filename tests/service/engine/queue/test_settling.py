"""Whatever happens to whom and in which order: every item that was let in is settled once, and rightly."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import hypothesis.strategies as st
import numpy as np
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.engine.queue.batch import Batch, BatchLimits
from service.engine.queue.batcher import Batcher
from service.engine.queue.pending_request import Item, Outputs, PendingRequest, Settlement
from service.errors import (
    ClientGone,
    DeadlineExceeded,
    InferenceFailed,
    NotReady,
    Overloaded,
    RequestError,
    TooLarge,
)
from tests.service.engine.engine_tools import ROWS, Clock, batcher_of

RUN_SECONDS = 1.0  # of any batch
VALUES = st.integers(0, 5)  # so few that many are equal


class Watched(PendingRequest):
    """A pending whose items are settled at once, and which notes with what and when."""

    def __init__(self, values: Sequence[int], deadline: float, priority: int, clock: Clock) -> None:
        super().__init__(deadline=deadline, priority=priority)
        self._timer.cancel()
        self.values = values
        self.results: list[list[tuple[Outputs | RequestError, float]]] = [[] for _ in values]
        self.clock = clock
        self.hung_up = False
        self.fill([{"x": np.full(2, value, dtype=np.float32)} for value in values], [1] * len(values))

    def post(self, settlements: Sequence[Settlement]) -> None:
        for item, result in settlements:
            assert isinstance(item.pending, Watched)
            item.pending.results[item.index].append((result, self.clock.now))
            item.pending.settle(item, result)


class Engine(RuleBasedStateMachine):
    """A queue with a lane or several, in which everything may happen that happens to one."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.accepted: list[Watched] = []
        self.refused: list[Watched] = []
        self.running: list[Batch] = []
        self.has_failed = False

    @initialize(uniform=st.booleans(), cache=st.sampled_from([0, 700, 10_000]), max_items=st.integers(1, 4))
    def start(self, *, uniform: bool, cache: int, max_items: int) -> None:
        limits = BatchLimits(max_items, max_queue_items=8, deadline_seconds=4, answer_cache_bytes=cache)
        self.batcher: Batcher = batcher_of(limits, rows=ROWS if uniform else None, clock=self.clock)
        for size in (1, 2, 4):
            self.batcher.seed(size, RUN_SECONDS)

    @rule(
        values=st.lists(VALUES, min_size=1, max_size=4),
        seconds=st.floats(0, 12),
        priority=st.sampled_from([1, 2, 2, 3]),
    )
    def submit(self, values: list[int], seconds: float, priority: int) -> None:
        async def make() -> Watched:
            return Watched(values, self.clock.now + seconds, priority, self.clock)

        pending = self.loop.run_until_complete(make())
        try:
            self.batcher.submit(pending)
        except (DeadlineExceeded, NotReady, Overloaded, TooLarge):
            self.refused.append(pending)
        else:
            self.accepted.append(pending)

    @rule(seconds=st.floats(0, 3))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    @precondition(lambda self: self.accepted)
    @rule(data=st.data())
    def hang_up(self, data: st.DataObject) -> None:
        pending = data.draw(st.sampled_from(self.accepted))
        pending.hung_up = True
        pending.close()

    @rule()
    def claim(self) -> None:
        batch = self.batcher.claim()
        if batch is not None:
            self.running.append(batch)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        batch = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        rows = zip(batch.items, batch.arrays()["x"], strict=True)
        self.batcher.settle([(item, {"y": row * 2}) for item, row in rows])
        self.batcher.recycle(batch, RUN_SECONDS)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), lane_dies=st.booleans())
    def fail(self, data: st.DataObject, *, lane_dies: bool) -> None:
        batch = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.has_failed = True
        self.batcher.settle([(item, InferenceFailed("broken")) for item in batch.items])
        if not lane_dies:
            self.batcher.recycle(batch)

    @precondition(lambda self: len(self.accepted) > 8)
    @rule()
    def close(self) -> None:
        self.batcher.close("unloaded")
        assert self.batcher.queue_items == 0

    @invariant()
    def nobody_is_settled_twice_or_wrongly(self) -> None:
        assert not any(any(pending.results) for pending in self.refused)
        for pending in self.accepted:
            for item, results in zip(pending.items, pending.results, strict=True):
                assert len(results) <= 1
                for result, then in results:
                    self.check(pending, item, result, then)

    def check(self, pending: Watched, item: Item, result: Outputs | RequestError, then: float) -> None:
        if isinstance(result, ClientGone):
            assert pending.hung_up
        elif isinstance(result, DeadlineExceeded):
            assert pending.deadline <= then + RUN_SECONDS
        elif isinstance(result, InferenceFailed):
            assert self.has_failed or pending.dropped
        elif isinstance(result, NotReady):
            assert self.batcher.closed
        else:
            assert not isinstance(result, RequestError)
            assert result["y"].tolist() == [2 * pending.values[item.index]] * 2

    def teardown(self) -> None:
        if hasattr(self, "batcher"):
            while (batch := self.batcher.claim()) is not None:
                self.running.append(batch)
            for batch in self.running:
                self.batcher.settle([(item, {"y": item.inputs["x"] * 2}) for item in batch.items])
            for pending in self.accepted:
                assert [len(results) for results in pending.results] == [1] * len(pending.items)
        for pending in (*self.accepted, *self.refused):
            pending.close()
        self.loop.close()


Engine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestEveryItemIsSettledOnce = Engine.TestCase
