"""What a queue predicts, learns from its batches, and reports: known cases have known values."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import numpy as np
import pytest

from service.engine.observer import Observer
from service.engine.queue.batch import BatchLimits
from service.engine.queue.batcher import Batcher
from service.errors import DeadlineExceeded, InferenceFailed, NotReady, Overloaded
from tests.service.engine.engine_tools import Clock, batcher_of, pending_of


class Calls(Observer):
    """Keep every report of a queue, as a tuple."""

    def __init__(self) -> None:
        self.seen: list[tuple[object, ...]] = []

    def model_added(self, *facts: object) -> None:
        self.seen.append(("added", *facts))

    def item_dropped(self, *facts: object) -> None:
        self.seen.append(("dropped", *facts))

    def items_shared(self, *facts: object) -> None:
        self.seen.append(("shared", *facts))

    def cache_asked(self, *facts: object) -> None:
        self.seen.append(("asked", *facts))

    def cache_sized(self, *facts: object) -> None:
        self.seen.append(("sized", *facts))


class BusyLane:
    """A lane that is free after a fixed time, and keeps what it was asked."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.asked: list[tuple[object, ...]] = []

    def wake(self) -> None:
        pass

    def delay(self, queue: Batcher, work_seconds: float, deadline: float, now: float) -> float:
        self.asked.append((queue, work_seconds, deadline, now))
        return self.seconds


def run(batcher: Batcher, seconds: float | None = None) -> Sequence[float]:
    """Answer the next batch and return the values of its items."""
    batch = batcher.claim()
    assert batch is not None
    batcher.settle([(item, {"y": item.inputs["x"]}) for item in batch.items])
    batcher.recycle(batch, seconds)
    return [float(item.inputs["x"][0]) for item in batch.items]


def ragged(clock: Clock, **seconds_by_cost: float) -> Batcher:
    """A queue of a ragged model with times given as `s8=0.5`."""
    limits = BatchLimits(max_items=8, max_cost=800, deadline_seconds=100)
    batcher = batcher_of(limits, rows=None, clock=clock)
    for cost, seconds in seconds_by_cost.items():
        batcher.seed(int(cost[1:]), seconds)
    return batcher


async def test_every_report_names_the_model_and_its_version() -> None:
    clock, observer = Clock(), Calls()
    batcher = batcher_of(BatchLimits(answer_cache_bytes=1000), clock=clock, observer=observer)
    assert (batcher.model, batcher.version) == ("m", "1")
    assert observer.seen == [("added", "m", "1"), ("sized", "m", "1", 0)]
    observer.seen.clear()
    batcher.submit(pending_of(1, 2, 2))
    assert observer.seen == [("shared", "m", "1", 1), ("asked", "m", "1", 0, 3)]
    observer.seen.clear()
    assert run(batcher) == [1, 2]
    assert observer.seen == [("sized", "m", "1", 2 * (256 + 8))]
    observer.seen.clear()
    batcher.submit(pending_of(1, 3))
    assert observer.seen == [("asked", "m", "1", 1, 1)]
    observer.seen.clear()
    with pytest.raises(DeadlineExceeded):
        batcher.submit(pending_of(4, deadline=clock.now))
    assert observer.seen == [("dropped", "m", "1", "expired")]
    observer.seen.clear()
    batcher.close("unloaded")
    assert observer.seen == [("dropped", "m", "1", "shutdown"), ("sized", "m", "1", 0)]


async def test_items_that_leave_the_queue_without_running_are_reported_with_their_reason() -> None:
    clock, observer = Clock(), Calls()
    batcher = batcher_of(clock=clock, observer=observer)
    expired, failed = pending_of(1, deadline=1e11), pending_of(2)
    batcher.submit(expired)
    batcher.submit(failed)
    failed.dropped = "failed_sibling"
    clock.now = 2e11
    observer.seen.clear()
    assert batcher.claim() is None
    assert observer.seen == [("dropped", "m", "1", "expired"), ("dropped", "m", "1", "failed_sibling")]
    with pytest.raises(DeadlineExceeded, match="before the item could run"):
        await asyncio.wait_for(expired.outputs(), 5)
    with pytest.raises(InferenceFailed, match="another item"):
        await asyncio.wait_for(failed.outputs(), 5)


async def test_a_closed_queue_keeps_the_reason_of_items_that_were_dropped_before() -> None:
    batcher = batcher_of()
    waiting, gone = pending_of(1), pending_of(2)
    batcher.submit(waiting)
    batcher.submit(gone)
    gone.dropped = "gone"
    assert not batcher.closed
    batcher.close("unloaded")
    assert batcher.closed
    assert (waiting.dropped, gone.dropped) == ("shutdown", "gone")
    with pytest.raises(NotReady) as error:
        await waiting.outputs()
    assert error.value.retry_after_seconds == 1
    with pytest.raises(NotReady) as error:
        batcher.submit(pending_of(3))
    assert error.value.retry_after_seconds == 1


@pytest.mark.parametrize("answer_cache_bytes", [0, 1000])
async def test_a_refusal_lasts_a_tenth_of_a_second_but_not_where_answers_are_cached(
    answer_cache_bytes: int,
) -> None:
    clock = Clock()
    limits = BatchLimits(max_queue_items=1, answer_cache_bytes=answer_cache_bytes)
    batcher = batcher_of(limits, clock=clock)
    assert not batcher.is_refusing
    batcher.submit(pending_of(1))
    with pytest.raises(Overloaded):
        batcher.submit(pending_of(2))
    clock.now += 0.0999
    assert batcher.is_refusing == (not answer_cache_bytes)
    clock.now += 0.0002
    assert not batcher.is_refusing


async def test_a_full_queue_is_searched_for_dropped_items_once_a_batch() -> None:
    batcher = batcher_of(BatchLimits(max_items=1, max_queue_items=3))
    gone = pending_of(2)
    for pending in (pending_of(1), gone, pending_of(3)):
        batcher.submit(pending)
    with pytest.raises(Overloaded):
        batcher.submit(pending_of(4))
    gone.dropped = "gone"
    with pytest.raises(Overloaded):
        batcher.submit(pending_of(4))  # a refusal stays cheap: the queue is not searched again
    assert run(batcher) == [1]
    batcher.submit(pending_of(4))
    batcher.submit(pending_of(5))  # a batch was claimed, so it is
    assert batcher.queue_items == 3


async def test_a_refused_item_is_no_leader_of_equal_items() -> None:
    batcher = batcher_of(BatchLimits(max_items=1, max_queue_items=1))
    batcher.submit(pending_of(1))
    with pytest.raises(Overloaded):
        batcher.submit(pending_of(2))
    assert run(batcher) == [1]
    batcher.submit(pending_of(2))
    assert run(batcher) == [2]


async def test_an_item_that_would_be_late_runs_if_nothing_else_waits() -> None:
    clock = Clock()
    batcher = batcher_of(BatchLimits(max_items=1), clock=clock)
    batcher.seed(1, 0.5)
    batcher.submit(pending_of(1, deadline=clock.now + 2))
    batcher.submit(pending_of(2))
    clock.now += 1.75
    assert run(batcher) == [2]  # 1 cannot be in time any more
    batcher.submit(pending_of(3, deadline=clock.now + 2))
    clock.now += 1.75
    assert run(batcher) == [3]


async def test_the_time_of_the_first_item_decides_whether_it_can_be_in_time() -> None:
    clock = Clock()
    batcher = ragged(clock, s10=0.125, s100=1.0)
    batcher.submit(pending_of(1, deadline=clock.now + 0.5, costs=[10]))
    batcher.submit(pending_of(2, costs=[100]))
    assert run(batcher) == [1]


async def test_the_lane_that_is_free_first_gives_the_wait() -> None:
    clock = Clock()
    batcher = batcher_of(BatchLimits(max_items=1), clock=clock)
    batcher.seed(1, 0.5)
    assert (batcher.predicted_wait_seconds, batcher.full_seconds, batcher.tight_seconds) == (0.0, 0.5, 1.0)
    slow, quick = BusyLane(4.0), BusyLane(1.0)
    batcher.lanes = (slow, quick)
    assert batcher.predicted_wait_seconds == 1.0
    assert slow.asked == quick.asked == [(batcher, 0.0, math.inf, clock.now)]
    batcher.submit(pending_of(1))
    assert quick.asked[1:] == [(batcher, 0.5, 1e12, clock.now)]
    assert (batcher.backlog_seconds, batcher.predicted_wait_seconds) == (0.5, 1.5)
    batcher.lanes = (slow,)
    assert batcher.predicted_answer_seconds == 5.0


async def test_the_slowest_item_of_a_batch_is_compared_with_its_promise() -> None:
    clock = Clock()
    batcher = batcher_of(BatchLimits(max_items=2, deadline_seconds=100), clock=clock)
    for size in (1, 2):
        batcher.seed(size, 0.5)
    for count in range(32):
        assert batcher._admission.margin(clock.now) == 1.5, count
        batcher.submit(pending_of(1, deadline=clock.now + 0.875))
        clock.now += 0.125
        batcher.submit(pending_of(2, deadline=clock.now + 0.875))
        clock.now += 0.125
        batch = batcher.claim()
        assert batch is not None
        assert [item.predicted_seconds for item in batch.items] == [0.5, 0.5]
        clock.now += 0.375
        batcher.settle([(item, {}) for item in batch.items])
        clock.now -= 0.625
    assert batcher._admission.margin(clock.now) == 1.25


async def test_a_queue_learns_from_the_time_of_a_batch() -> None:
    clock = Clock()
    batcher = ragged(clock, s100=1.0, s200=2.0)
    batcher.submit(pending_of(1, 2, costs=[200, 100]))
    batch = batcher.claim()
    assert batch is not None
    assert (batch.work, batch.size, batch.saturated) == (2.0, 200, True)
    assert (batcher.expected_seconds(batch), batch.claimed) == (2.0, clock.now)
    batcher.recycle(batch, 1.0)
    assert (batcher._admission.gain, batcher.full_seconds) == (0.9, 1.8)
    assert batcher._admission.table.seconds(200) == pytest.approx(1.8)
    assert run(batcher, 0.5) == [2]  # nothing else waits: no full batch
    assert (batcher._admission.gain, batcher.full_seconds) == (0.9, 1.8)


async def test_lane_time_counts_for_the_priority_of_the_first_item_less_what_lower_ones_took() -> None:
    clock = Clock()
    batcher = batcher_of(BatchLimits(max_items=2, deadline_seconds=100), clock=clock)
    for size in (1, 2):
        batcher.seed(size, 1.0)
    batcher.submit(pending_of(1, priority=1))
    batcher.submit(pending_of(2, 3, priority=3))
    batch = batcher.claim()
    assert batch is not None
    assert (batch.priority, batch.work, batch.lower_priority_work, batch.saturated) == (1, 2.0, 1.0, True)
    batcher.recycle(batch, 1.0)
    assert batcher._admission._taken[1].rate(clock.now) == 0.5
    assert run(batcher, 0.75) == [3]
    assert batcher._admission._taken[3].rate(clock.now) == 0.75


async def test_batches_are_halved_when_out_of_memory_and_the_limit_lapses_after_some_minutes() -> None:
    clock = Clock()
    batcher = batcher_of(BatchLimits(max_items=8, deadline_seconds=100), clock=clock)
    for size in (1, 8):
        batcher.seed(size, 1.0)
    batcher.note_out_of_memory(8)
    batcher.submit(pending_of(*range(8)))
    assert run(batcher) == [0, 1, 2, 3]
    clock.now += 3600
    assert run(batcher) == [4, 5, 6, 7]
    batcher.submit(pending_of(*range(8)))
    assert len(run(batcher)) == 8


async def test_a_request_is_judged_before_its_items_are_there_by_the_smallest_possible_work() -> None:
    clock = Clock()
    batcher = ragged(clock, s1=0.25, s2=1.0)
    batcher.submit(pending_of(1, deadline=clock.now + 0.1))  # admitted as a probe
    assert run(batcher) == [1]
    with pytest.raises(Overloaded):
        batcher.submit(pending_of(2, deadline=clock.now + 0.1))
    batcher.check(2, clock.now + 0.5, coming=0)
    with pytest.raises(Overloaded):
        batcher.check(2, clock.now + 0.25, coming=0)


async def test_a_request_that_only_asks_leaves_the_probe_to_the_next_one() -> None:
    clock = Clock()
    batcher = batcher_of(BatchLimits(max_items=1), clock=clock)
    batcher.seed(1, 0.25)
    batcher.submit(pending_of(1, deadline=clock.now + 0.1))
    assert run(batcher) == [1]
    clock.now += 0.95
    with pytest.raises(Overloaded):
        batcher.submit(pending_of(2, deadline=clock.now + 0.1))
    clock.now += 0.06
    batcher.check(2, clock.now + 0.1, coming=0)
    batcher.submit(pending_of(3, deadline=clock.now + 0.1))
    assert batcher.queue_items == 1


async def test_only_the_rows_of_the_next_batch_are_staged() -> None:
    batcher = batcher_of(BatchLimits(max_items=4))
    batcher.submit(pending_of(0, 1, 2))
    batcher.submit(pending_of(3, 4))
    assert [item.inputs["x"][0] for item in batcher._staging.open.staged_items] == [0, 1, 2, 3]
    assert run(batcher) == [0, 1, 2, 3]
    assert [item.inputs["x"][0] for item in batcher._staging.open.staged_items] == [4]


async def test_the_delay_before_a_batch_ends_with_its_first_item() -> None:
    clock = Clock()
    batcher = batcher_of(BatchLimits(max_items=3, max_delay_seconds=3, deadline_seconds=100), clock=clock)
    batcher.submit(pending_of(1, deadline=clock.now + 50))
    clock.now += 1
    batcher.submit(pending_of(2, deadline=clock.now + 10))
    assert batcher.head() == (clock.now + 2, clock.now + 10)
    batcher.submit(pending_of(3))
    assert batcher.head() == (0.0, clock.now + 10)


async def test_buffers_are_used_again() -> None:
    made: list[tuple[int, ...]] = []

    def allocate(shape: tuple[int, ...], dtype: str) -> np.ndarray:
        made.append(shape)
        return np.zeros(shape, dtype)

    batcher = batcher_of(BatchLimits(max_items=4), allocate=allocate)
    for value in range(6):
        batcher.submit(pending_of(value))
        run(batcher)
    assert made == [(4, 2)] * 2
