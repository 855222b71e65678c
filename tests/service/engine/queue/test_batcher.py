from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.queue.batch import BatchLimits, stack
from service.engine.queue.batcher import Batcher
from service.engine.queue.pending_request import PendingRequest
from service.errors import ClientGone, DeadlineExceeded, InferenceFailed, NotReady, Overloaded
from tests.service.engine.engine_tools import Clock, Recorder, batcher_of, pending_of


def claimed_values(batcher: Batcher) -> list[float]:
    batch = batcher.claim()
    if batch is None:
        return []
    values: list[float] = batch.arrays()["x"][:, 0].tolist()
    batcher.recycle(batch)
    return values


async def test_items_come_out_in_the_order_they_came() -> None:
    batcher = batcher_of()
    for value in range(5):
        batcher.submit(pending_of(value))
    assert claimed_values(batcher) == [0, 1, 2, 3, 4]
    assert claimed_values(batcher) == []


async def test_a_batch_holds_at_most_max_items_and_the_rest_makes_the_next() -> None:
    batcher = batcher_of(BatchLimits(max_items=4))
    batcher.submit(pending_of(*range(10)))
    assert [len(claimed_values(batcher)) for _ in range(4)] == [4, 4, 2, 0]


async def test_a_batch_stays_open_until_it_is_claimed() -> None:
    batcher = batcher_of(BatchLimits(max_items=4))
    batcher.submit(pending_of(1))
    batcher.submit(pending_of(2))
    first = batcher.claim()
    assert first is not None
    batcher.submit(pending_of(3))
    assert first.arrays()["x"][:, 0].tolist() == [1, 2]
    assert claimed_values(batcher) == [3]


async def test_padded_cost_limits_a_batch() -> None:
    batcher = batcher_of(BatchLimits(max_items=8, max_cost=100), rows=None)
    batcher.submit(pending_of(1, 2, 3, costs=[40, 45, 45]))
    assert claimed_values(batcher) == [1, 2]
    assert claimed_values(batcher) == [3]


async def test_an_item_dearer_than_the_limit_runs_alone() -> None:
    batcher = batcher_of(BatchLimits(max_items=8, max_cost=100), rows=None)
    batcher.submit(pending_of(1, 2, costs=[500, 10]))
    assert claimed_values(batcher) == [1]
    assert claimed_values(batcher) == [2]


async def test_like_costs_share_a_batch_and_the_oldest_is_never_passed_over_twice() -> None:
    batcher = batcher_of(BatchLimits(max_items=8), rows=None)
    batcher.submit(pending_of(1, 2, 3, 4, costs=[100, 10, 100, 10]))
    assert claimed_values(batcher) == [1, 3]
    assert claimed_values(batcher) == [2, 4]


async def test_more_urgent_requests_go_first_among_those_that_wait() -> None:
    clock = Clock()
    batcher = batcher_of(BatchLimits(max_items=1), clock=clock)
    for value, seconds in ((0, 1.0), (1, 3.0), (2, 2.0)):
        batcher.submit(pending_of(value, deadline=clock.now + seconds))
    assert [claimed_values(batcher)[0] for _ in range(3)] == [0, 2, 1]


async def test_a_request_with_a_far_deadline_is_not_passed_over_for_ever() -> None:
    clock = Clock()
    batcher = batcher_of(BatchLimits(max_items=1, deadline_seconds=1), clock=clock)
    batcher.submit(pending_of(0, deadline=clock.now + 3600))
    clock.now += 3.5
    batcher.submit(pending_of(1, deadline=clock.now + 1))
    assert claimed_values(batcher) == [0]


async def test_higher_priority_goes_first_whatever_the_deadlines() -> None:
    clock = Clock()
    batcher = batcher_of(BatchLimits(max_items=1), clock=clock)
    for value, priority in ((0, 3), (1, 2), (2, 1)):
        batcher.submit(pending_of(value, deadline=clock.now + 1 + value, priority=priority))
    assert [claimed_values(batcher)[0] for _ in range(3)] == [2, 1, 0]


async def test_a_full_queue_refuses_the_whole_request_with_a_time_to_come_back() -> None:
    batcher = batcher_of(BatchLimits(max_items=2, max_queue_items=5))
    batcher.submit(pending_of(0, 1, 2, 3))
    with pytest.raises(Overloaded) as refused:
        batcher.submit(pending_of(4, 5))
    assert refused.value.retry_after_seconds is not None
    assert batcher.queue_items == 4
    batcher.submit(pending_of(6))


async def test_abandoned_items_give_their_place_in_a_full_queue_to_new_requests() -> None:
    batcher = batcher_of(BatchLimits(max_items=1, max_queue_items=2))
    batcher.submit(pending_of(0))
    waiting = pending_of(1)
    batcher.submit(waiting)
    waiting.dropped = "gone"
    batcher.submit(pending_of(2))
    assert [claimed_values(batcher), claimed_values(batcher)] == [[0], [2]]


async def test_a_request_past_its_deadline_does_not_enter_the_queue() -> None:
    clock = Clock()
    batcher = batcher_of(clock=clock)
    with pytest.raises(DeadlineExceeded):
        batcher.submit(pending_of(1, deadline=clock.now - 1))
    assert batcher.queue_items == 0


async def test_an_item_that_expired_in_the_queue_is_told_and_does_not_run() -> None:
    clock, observer = Clock(), Recorder()
    batcher = batcher_of(clock=clock, observer=observer)
    late, good = pending_of(1, deadline=clock.now + 1), pending_of(2, deadline=clock.now + 9)
    batcher.submit(late)
    batcher.submit(good)
    clock.now += 5
    assert claimed_values(batcher) == [2]
    assert observer.dropped == ["expired"]
    with pytest.raises(DeadlineExceeded):
        await late.outputs()


async def test_an_item_whose_client_hung_up_does_not_run() -> None:
    observer = Recorder()
    batcher = batcher_of(observer=observer)
    gone, good = pending_of(1), pending_of(2)
    batcher.submit(gone)
    batcher.submit(good)
    gone.abandon(ClientGone("hung up"), "gone")
    assert claimed_values(batcher) == [2]
    assert observer.dropped == ["gone"]
    with pytest.raises(ClientGone):
        await gone.outputs()


async def test_a_batch_of_abandoned_items_only_is_no_batch() -> None:
    batcher = batcher_of()
    gone = pending_of(1)
    batcher.submit(gone)
    gone.dropped = "gone"
    assert batcher.claim() is None
    assert batcher.queue_items == 0


async def test_a_delay_counts_from_the_first_item_and_ends_when_the_batch_is_full() -> None:
    clock = Clock()
    batcher = batcher_of(BatchLimits(max_items=2, max_delay_seconds=3), clock=clock)
    assert batcher.head() is None
    batcher.submit(pending_of(1))
    head = batcher.head()
    assert head is not None and head[0] == clock.now + 3
    clock.now += 2
    batcher.submit(pending_of(2))
    head = batcher.head()
    assert head is not None and head[0] <= clock.now


async def test_a_closed_queue_fails_who_waits_and_refuses_new_requests() -> None:
    batcher = batcher_of(BatchLimits(max_items=1))
    staged, waiting = pending_of(1), pending_of(2)
    batcher.submit(staged)
    batcher.submit(waiting)
    batcher.close("unloaded")
    for pending in (staged, waiting):
        with pytest.raises(NotReady, match="unloaded"):
            await pending.outputs()
    with pytest.raises(NotReady, match="unloaded"):
        batcher.submit(pending_of(3))
    assert batcher.claim() is None


async def test_a_row_of_the_wrong_shape_is_our_bug_and_reaches_no_batch() -> None:
    batcher = batcher_of()
    pending = PendingRequest(deadline=1e12)
    pending.fill([{"x": np.zeros(3, dtype=np.float32)}], [1])
    with pytest.raises(AssertionError, match="graph takes"):
        batcher.submit(pending)
    assert batcher.queue_items == 0


async def test_rows_written_by_many_threads_while_a_lane_claims_are_never_mixed_up() -> None:
    batcher = batcher_of(BatchLimits(max_items=7, max_queue_items=10_000))
    pending_requests = [pending_of(float(value)) for value in range(2000)]
    seen: list[float] = []
    done = threading.Event()

    def submit(part: Sequence[PendingRequest]) -> None:
        for pending in part:
            batcher.submit(pending)

    def claim() -> None:
        while not done.is_set() or batcher.queue_items:
            batch = batcher.claim()
            if batch is None:
                continue
            values = batch.arrays()["x"]
            assert values[:, 0].tolist() == [item.inputs["x"][0] for item in batch.items]
            seen.extend(values[:, 1].tolist())
            batcher.recycle(batch)

    lane = threading.Thread(target=claim)
    workers = [threading.Thread(target=submit, args=(pending_requests[i::4],)) for i in range(4)]
    for thread in (lane, *workers):
        thread.start()
    for worker in workers:
        await asyncio.to_thread(worker.join)
    done.set()
    await asyncio.to_thread(lane.join)
    assert sorted(seen) == [float(value) for value in range(2000)]


def test_ragged_rows_are_padded_with_zeros_at_their_ends() -> None:
    rows = [{"x": np.ones((2, 1), dtype=np.int64)}, {"x": np.ones((1, 3), dtype=np.int64)}]
    assert stack(rows)["x"].tolist() == [[[1, 0, 0], [1, 0, 0]], [[1, 1, 1], [0, 0, 0]]]


@settings(deadline=None)
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=60), st.integers(1, 16), st.integers(1, 3000))
def test_no_batch_ever_breaks_a_limit(costs: list[int], max_items: int, max_cost: int) -> None:
    async def run() -> None:
        limits = BatchLimits(max_items=max_items, max_cost=max_cost, max_queue_items=1000)
        batcher = batcher_of(limits, rows=None)
        batcher.submit(pending_of(*range(len(costs)), costs=costs))
        seen = 0
        while (claimed := batcher.claim()) is not None:
            items = claimed.items
            dearest = max(item.cost for item in items)
            assert len(items) <= max_items
            assert len(items) == 1 or dearest * len(items) <= max_cost
            assert claimed.padding_ratio <= 1.25 + 1e-9
            seen += len(items)
        assert seen == len(costs)

    asyncio.run(run())


async def test_the_first_failure_of_a_request_is_its_answer_and_drops_its_other_items() -> None:
    pending = pending_of(1, 2)
    pending.settle(pending.items[1], InferenceFailed("broken"))
    pending.settle(pending.items[0], {"y": np.zeros(1)})
    assert pending.dropped == "failed_sibling"
    with pytest.raises(InferenceFailed, match="broken"):
        await pending.outputs()


async def test_outputs_keep_the_requests_order_whatever_the_order_of_runs() -> None:
    pending = pending_of(1, 2, 3)
    for index in (2, 0, 1):
        pending.settle(pending.items[index], {"y": np.array([index])})
    assert [int(row["y"][0]) for row in await pending.outputs()] == [0, 1, 2]


async def test_a_waiter_gets_504_at_its_deadline_even_if_nothing_ever_runs() -> None:
    import time

    pending = pending_of(1, deadline=time.monotonic() + 0.01)
    with pytest.raises(DeadlineExceeded):
        await asyncio.wait_for(pending.outputs(), 5)
    assert pending.dropped == "expired"


class WakeCounter:
    def __init__(self) -> None:
        self.wakes = 0

    def wake(self) -> None:
        self.wakes += 1

    def delay(self, queue: Batcher, work_seconds: float, deadline: float, now: float) -> float:
        return 0.0


@pytest.mark.parametrize(("run_seconds", "at_once"), [(0.0045, 0), (0.0055, 3)], ids=["quick", "slow"])
async def test_one_turn_of_the_event_loop_wakes_the_lane_of_a_quick_model_once(
    run_seconds: float, at_once: int
) -> None:
    batcher, lane = batcher_of(), WakeCounter()
    batcher.seed(1, run_seconds)
    batcher.seed(2, 2 * run_seconds)
    batcher.lanes = (lane,)
    for value in range(3):
        batcher.submit(pending_of(value), on_loop=True)
    assert lane.wakes == at_once
    await asyncio.sleep(0)
    assert lane.wakes == (at_once or 1)
    batcher.submit(pending_of(3), on_loop=True)
    await asyncio.sleep(0)
    assert lane.wakes == (at_once or 1) + 1
    batcher.close("over")


async def test_who_would_be_refused_is_refused_before_his_items_are_there() -> None:
    clock = Clock()
    batcher = batcher_of(BatchLimits(max_items=1, deadline_seconds=1), clock=clock)
    batcher.seed(1, 0.3)
    batcher.check(2, clock() + 0.1, coming=0)  # nobody was refused yet, so nothing is looked at
    batcher.submit(pending_of(1, deadline=clock() + 1))
    with pytest.raises(Overloaded):
        batcher.submit(pending_of(2, deadline=clock() + 0.3))
    with pytest.raises(Overloaded) as refused:
        batcher.check(2, clock() + 0.3, coming=0)
    assert refused.value.retry_after_seconds is not None and refused.value.retry_after_seconds > 0
    batcher.check(2, clock() + 5, coming=2)
    with pytest.raises(Overloaded):
        batcher.check(2, clock() + 5, coming=20)
    assert batcher.queue_items == 1
    clock.now += 0.2
    batcher.check(2, clock() + 0.3, coming=0)  # a wrong prediction must be found out
