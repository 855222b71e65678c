"""Admission: known queues give known predictions."""

from __future__ import annotations

import heapq

from hypothesis import given
from hypothesis import strategies as st

from service.engine.queue.admission import Admission
from service.engine.queue.batch import BatchLimits

delays = st.lists(st.integers(0, 4), min_size=1, max_size=5).map(sorted)


def one_second_each(lanes: int) -> Admission:
    """A model whose items take a second, one at a time."""
    admission = Admission(BatchLimits(max_items=1, deadline_seconds=100), uniform=True)
    admission.table.seed(1, 1.0)
    admission.refresh()
    admission.lanes = lanes
    return admission


def in_turn(items: int, delays: list[int]) -> float:
    """When the last item is done if whichever lane is free first takes the next."""
    free = [float(delay) for delay in delays]
    heapq.heapify(free)
    done = free[0]
    for _ in range(items):
        done = free[0] + 1
        heapq.heapreplace(free, done)
    return done


@given(st.integers(1, 20), delays)
def test_lanes_that_take_the_next_batch_in_turn_are_never_promised_to_be_faster(
    items: int, delays: list[int]
) -> None:
    admission = one_second_each(len(delays))
    expected = admission.done_seconds(items * admission.work(1), delays)
    assert in_turn(items, delays) <= expected <= in_turn(items, delays) + 4


@given(st.integers(1, 20), st.lists(st.floats(0, 1), min_size=1, max_size=5).map(sorted))
def test_the_prediction_is_exact_where_every_lane_is_free_within_a_batch(
    items: int, delays: list[float]
) -> None:
    admission = one_second_each(len(delays))
    expected = admission.done_seconds(items * admission.work(1), delays)
    rounds, last = divmod(items - 1, len(delays))
    assert abs(expected - (delays[last] + rounds + 1)) < 1e-9


def test_a_lane_that_is_busy_for_long_is_not_waited_for() -> None:
    admission = one_second_each(2)
    assert admission.done_seconds(3 * admission.work(1), [0.0, 60.0]) == 3


def test_items_of_one_shape_are_counted_exactly_whatever_their_times_do() -> None:
    admission = Admission(BatchLimits(max_items=8, deadline_seconds=100), uniform=True)
    for size in (1, 2, 4, 8):
        admission.table.seed(size, 1 + 0.1 * size)
    admission.refresh()
    assert admission.batch_size == 8
    waiting = [admission.work(1) for _ in range(16)]
    for seconds in (2, 3, 2.5, 2):
        admission.record(8, sum(waiting[:8]), seconds, saturated=True)
        assert admission.wait_seconds(sum(waiting)) == 2 * admission.full_seconds
        admission.refresh()


def test_several_lanes_are_busy_for_a_shorter_time() -> None:
    assert [one_second_each(lanes).wait_seconds(4) for lanes in (1, 2, 3, 4)] == [4, 2, 2, 1]


def test_under_load_a_size_that_was_timed_wrongly_is_found_out() -> None:
    admission = Admission(BatchLimits(max_items=16, deadline_seconds=100), uniform=True)
    for size, seconds in ((1, 1.0), (2, 1.6), (4, 4.0)):  # it is 1.2 for two and 2 for four
        admission.table.seed(size, seconds)
    admission.refresh()
    assert admission.batch_size == 2
    for _ in range(400):
        admission.record(
            size := admission.bounds_at(0, 1000).max_items, size, 0.4 + 0.4 * size, saturated=True
        )
    assert admission.batch_size == 16


def test_a_size_that_does_not_pay_is_tried_ever_more_rarely() -> None:
    admission = Admission(BatchLimits(max_items=8, deadline_seconds=100), uniform=True)
    for size in (1, 2):
        admission.table.seed(size, size)
    admission.refresh()
    tried = []
    for batch in range(1000):
        size = admission.bounds_at(0, 1000).max_items
        admission.record(size, size, size, saturated=True)
        if size > 1:
            tried.append(batch)
    assert len(tried) == 3
    assert admission.batch_size == 1


def test_batches_are_short_enough_for_the_deadlines_of_others() -> None:
    admission = Admission(BatchLimits(max_items=8, deadline_seconds=100), uniform=True)
    for size in (1, 2, 4, 8):
        admission.table.seed(size, 1 + 0.1 * size)
    admission.refresh()
    assert admission.batch_size == 8
    admission.be_patient(1.5)
    assert admission.batch_size == 5
    admission.be_patient(0.1)
    assert admission.batch_size == 1
