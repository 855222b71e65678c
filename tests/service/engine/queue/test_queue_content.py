"""What the queue says equals what is in it, whatever comes, runs, expires or hangs up."""

from __future__ import annotations

import asyncio
import math

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.engine.queue.batch import BatchLimits
from service.engine.queue.batcher import Batcher
from service.engine.queue.pending_request import PendingRequest
from service.errors import Overloaded, RequestError
from tests.service.engine.engine_tools import ROWS, Clock, batcher_of, pending_of


async def test_a_queue_whose_items_all_expired_has_no_backlog() -> None:
    clock = Clock()
    batcher = batcher_of(BatchLimits(max_items=1), clock=clock)
    batcher.seed(1, 0.4)
    batcher.seed(1, 0.4)
    batcher.submit(pending_of(1, deadline=clock.now + 1))
    assert (batcher.backlog_seconds, batcher.pressing) == (0.4, clock.now + 1)
    clock.now += 2
    assert batcher.claim() is None
    assert (batcher.backlog_seconds, batcher.pressing) == (0.0, math.inf)


async def test_a_refusal_that_removes_expired_items_removes_their_backlog() -> None:
    clock = Clock()
    batcher = batcher_of(BatchLimits(max_items=1), clock=clock)
    batcher.seed(1, 0.4)
    batcher.submit(pending_of(1, deadline=clock.now + 0.1))  # an empty queue admits one a second as a probe
    clock.now += 0.5
    with pytest.raises(Overloaded):
        batcher.submit(pending_of(2, deadline=clock.now + 0.1))
    assert (batcher.queue_items, batcher.backlog_seconds, batcher.pressing) == (0, 0.0, math.inf)


async def test_a_closed_queue_has_no_backlog() -> None:
    batcher = batcher_of(BatchLimits(max_items=1))
    batcher.seed(1, 0.4)
    batcher.submit(pending_of(1))
    batcher.close("unloaded")
    assert (batcher.queue_items, batcher.backlog_seconds, batcher.pressing) == (0, 0.0, math.inf)


async def test_an_idle_queue_predicts_no_wait_and_an_answer_after_one_run() -> None:
    batcher = batcher_of(BatchLimits(max_items=1))
    batcher.seed(1, 0.4)
    assert (batcher.predicted_wait_seconds, batcher.predicted_answer_seconds) == (0.0, 0.4)
    batcher.submit(pending_of(1))
    assert (batcher.predicted_wait_seconds, batcher.predicted_answer_seconds) == (0.4, 0.8)


class Queue(RuleBasedStateMachine):
    """A queue to which anything may happen, compared after each step with what it contains."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.requests: list[PendingRequest] = []
        self.batcher: Batcher = batcher_of()
        self.value = 0

    @initialize(uniform=st.booleans(), max_items=st.integers(1, 4), lanes=st.integers(1, 2))
    def start(self, *, uniform: bool, max_items: int, lanes: int) -> None:
        limits = BatchLimits(max_items, max_queue_items=8, deadline_seconds=4)
        self.batcher = batcher_of(limits, rows=ROWS if uniform else None, clock=self.clock)
        for size in (1, 2, 4):
            self.batcher.seed(size, 0.2 + 0.2 * size)

    @rule(count=st.integers(1, 3), seconds=st.floats(0.1, 8), priority=st.integers(1, 3))
    def submit(self, count: int, seconds: float, priority: int) -> None:
        async def make() -> PendingRequest:
            values = range(self.value, self.value + count)
            pending = pending_of(*values, deadline=self.clock.now + seconds, priority=priority)
            pending._timer.cancel()
            return pending

        self.value += count
        pending = self.loop.run_until_complete(make())
        self.requests.append(pending)
        try:
            self.batcher.submit(pending)
        except RequestError:
            pending.close()

    @rule(seconds=st.floats(0, 4))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def hang_up(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.requests)).close()

    @rule(seconds=st.one_of(st.none(), st.floats(0.1, 2)))
    def claim(self, seconds: float | None) -> None:
        batch = self.batcher.claim()
        if batch is not None:
            waiting = set(self.batcher._order.items)
            assert not waiting & set(batch.items)
            self.batcher.settle([(item, {}) for item in batch.items])
            self.batcher.recycle(batch, seconds)

    @rule(size=st.integers(1, 8))
    def run_out_of_memory(self, size: int) -> None:
        self.batcher.note_out_of_memory(size)

    @precondition(lambda self: len(self.requests) > 10)
    @rule()
    def close(self) -> None:
        self.batcher.close("unloaded")

    @invariant()
    def the_queue_says_what_is_in_it(self) -> None:
        order = self.batcher._order
        items = order.items
        assert self.batcher.queue_items == len(items) == len(order.keys) == len(order.works)
        assert order.total_work == pytest.approx(sum(order.works))
        assert self.batcher.backlog_seconds == self.batcher._admission.wait_seconds(sum(order.works))
        assert (self.batcher.backlog_seconds > 0) == (len(items) > 0)
        assert self.batcher.pressing == (items[0].pending.deadline if items else math.inf)

    @invariant()
    def only_items_that_wait_have_a_row(self) -> None:
        staged = self.batcher._staging.open.staged_items
        assert set(staged) <= set(self.batcher._order.items)

    def teardown(self) -> None:
        for pending in self.requests:
            pending.close()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()


Queue.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestQueueContent = Queue.TestCase
