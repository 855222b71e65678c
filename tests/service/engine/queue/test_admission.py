"""Admission: known queues give known predictions."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.queue.admission import Admission, Delays, Urgency
from service.engine.queue.batch import BatchLimits
from service.engine.queue.queue_order import QueueOrder
from service.errors import Overloaded
from tests.service.engine.engine_tools import pending_of

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


def order_with(*deadlines: float, priority: int = 2) -> QueueOrder:
    """A queue of items of one unit of work."""
    order = QueueOrder()
    for deadline in deadlines:
        pending = pending_of(0, deadline=deadline)
        pending._timer.cancel()
        order.insert(order.position(priority, deadline), priority, deadline, pending.items[0], 1.0)
    return order


def idle(work_seconds: float, deadline: float) -> Sequence[float]:
    return (0.0,)


def busy(work_seconds: float, deadline: float) -> Sequence[float]:
    return (0.5,)


NOW = 1000.0


async def test_a_full_queue_refuses_and_says_when_its_work_is_done() -> None:
    admission = Admission(BatchLimits(max_items=1, max_queue_items=3), uniform=True)
    admission.table.seed(1, 1.0)
    admission.refresh()
    urgency = admission.urgency(2, NOW + 100, NOW)
    assert admission.check(order_with(NOW, NOW), [1], urgency, idle)[0] == 2
    with pytest.raises(Overloaded, match="3 of 3 items") as refused:
        admission.check(order_with(NOW, NOW, NOW), [1], urgency, idle)
    assert (refused.value.reason, refused.value.retry_after_seconds) == ("queue_full", 3.0)


async def test_before_anything_was_timed_only_the_length_is_bounded() -> None:
    admission = Admission(BatchLimits(max_items=4, max_queue_items=8), uniform=True)
    urgency = admission.urgency(2, NOW + 0.001, NOW)
    assert admission.check(order_with(NOW + 1), [1, 1], urgency, busy) == (0, 0.0)


@pytest.mark.parametrize(
    ("waiting", "delays", "lanes", "ahead", "expected"),
    [
        (0, idle, 1, 0, 1.0),
        (0, busy, 1, 0, 1.5),
        (2, idle, 1, 0, 3.0),
        (2, busy, 1, 0, 3.5),
        (2, busy, 1, 4, 7.5),
        (2, lambda work, deadline: (work, work), 2, 0, 4.0),
    ],
)
async def test_the_expected_time_is_that_of_the_work_ahead_and_of_the_own(
    waiting: int, delays: Delays, lanes: int, ahead: int, expected: float
) -> None:
    admission = one_second_each(lanes)
    order = order_with(*[NOW + 100] * waiting)
    place = waiting
    just = expected * 1.5  # the margin before anything ran
    urgency = Urgency(2, NOW + just, NOW + 200, NOW)
    assert admission.check(order, [1], urgency, delays, ahead=ahead) == (place, expected)
    tight = Urgency(2, NOW + just - 0.25, NOW + 200, NOW)
    admission._is_probe(NOW, taken=True)
    with pytest.raises(Overloaded) as refused:
        admission.check(order, [1], tight, delays, ahead=ahead)
    assert (refused.value.reason, refused.value.retry_after_seconds) == ("deadline", 0.25)


@pytest.mark.parametrize(("left", "predicted"), [(2.0, 0.0), (1.9375, 1.0)])
async def test_a_prediction_counts_as_a_promise_where_it_takes_more_than_half_of_the_time(
    left: float, predicted: float
) -> None:
    urgency = Urgency(2, NOW + left, NOW + left, NOW)
    assert one_second_each(1).check(QueueOrder(), [1], urgency, idle) == (0, predicted)


async def test_an_empty_queue_admits_one_request_a_second_whatever_is_predicted() -> None:
    admission, order = one_second_each(1), QueueOrder()

    def is_admitted(now: float, *, is_asking: bool = False) -> bool:
        try:
            admission.check(order, [1], Urgency(2, now + 0.5, now, now), idle, is_asking=is_asking)
        except Overloaded:
            return False
        return True

    assert [is_admitted(NOW, is_asking=True), is_admitted(NOW), is_admitted(NOW)] == [True, True, False]
    assert [is_admitted(NOW + 0.9375), is_admitted(NOW + 1), is_admitted(NOW + 1.5)] == [False, True, False]


@pytest.mark.parametrize(
    ("deadline", "is_admitted"),
    [(3.0, True), (2.9375, False), (1.0, True), (0.9375, True), (1.0625, False)],
    ids=["in time", "made late", "with no time to spare", "late in any case", "barely in time"],
)
async def test_nobody_who_would_be_in_time_is_made_late(deadline: float, *, is_admitted: bool) -> None:
    admission = one_second_each(1)
    order = order_with(NOW + deadline)
    urgency = Urgency(2, NOW + 100, NOW, NOW)
    if is_admitted and deadline != 1.0:
        assert admission.check(order, [1], urgency, idle) == (0, 0.0)
        return
    with pytest.raises(Overloaded) as refused:
        admission.check(order, [1], urgency, idle)
    assert refused.value.retry_after_seconds == 3.0 - deadline


async def test_lower_priority_may_be_made_late() -> None:
    order = order_with(NOW + 2.5, priority=3)
    assert one_second_each(1).check(order, [1], Urgency(2, NOW + 100, NOW, NOW), idle) == (0, 0.0)


async def test_the_work_of_all_who_stand_before_counts_for_those_who_are_displaced() -> None:
    admission = one_second_each(1)
    order = order_with(NOW + 50, NOW + 60, NOW + 70)
    order.items[2].pending.deadline = NOW + 5.9375  # 4 batches and half as much again
    with pytest.raises(Overloaded) as refused:
        admission.check(order, [1], Urgency(2, NOW + 100, NOW + 55, NOW), idle)
    assert refused.value.retry_after_seconds == 0.0625


async def test_a_newcomer_counts_the_share_that_higher_priorities_took() -> None:
    admission = one_second_each(1)
    admission.note_taken(1, 0.25, NOW)
    admission.note_taken(1, 0.25, NOW)
    assert admission._taken_by_higher(Urgency(2, 0, 0, NOW)) == 0.0  # nobody else came yet
    admission.note_taken(3, 0.25, NOW)
    shares = [admission._taken_by_higher(Urgency(priority, 0, 0, NOW)) for priority in (1, 2, 3, 4)]
    assert shares == [0.0, 0.5, 0.5, 0.75]
    order = order_with(NOW + 100)
    assert admission.check(order, [1], Urgency(2, NOW + 7, NOW + 200, NOW), idle) == (1, 4.0)
    admission.lanes = 2
    assert admission._taken_by_higher(Urgency(2, 0, 0, NOW)) == 0.25
    admission.note_taken(1, 50, NOW)
    assert admission._taken_by_higher(Urgency(2, 0, 0, NOW)) == 0.9


async def test_the_lane_time_of_all_priorities_from_the_lowest_on_is_counted_together() -> None:
    admission = one_second_each(1)
    for priority in (8, 9, 10, 12):
        pending = pending_of(0, priority=priority)
        admission.note_taken(pending.priority, 0.25, NOW)
    assert {level: meter.rate(NOW) for level, meter in admission._taken.items()} == {8: 0.25, 9: 0.75}


async def test_an_idle_lane_promises_the_time_of_what_is_there() -> None:
    admission = Admission(BatchLimits(max_items=8, deadline_seconds=100), uniform=True)
    for size in (1, 2, 4, 8):
        admission.table.seed(size, 1 + 0.125 * size)
    admission.refresh()
    assert (admission.batch_size, admission.full_seconds, admission.gain) == (8, 2.0, 0.25)
    urgency = Urgency(2, NOW + 2, NOW + 2, NOW)
    assert admission.check(QueueOrder(), [1], urgency, idle) == (0, 1.125)
    admission.note_taken(1, 0.5, NOW)
    admission.note_taken(2, 0.5, NOW)
    urgency = Urgency(2, NOW + 3.5, NOW + 2, NOW)
    assert admission.check(QueueOrder(), [1], urgency, idle) == (0, 2.25)
    urgency = Urgency(1, NOW + 3.5, NOW + 2, NOW)
    assert admission.check(order_with(NOW), [1], urgency, idle) == (0, 0.0)


def test_a_far_deadline_is_due_after_four_of_the_models_own() -> None:
    admission = Admission(BatchLimits(deadline_seconds=10), uniform=True)
    assert admission.urgency(2, NOW + 39, NOW).due == NOW + 39
    assert admission.urgency(2, NOW + 41, NOW).due == NOW + 40


def test_tight_deadlines_are_followed_quickly_down_and_slowly_up() -> None:
    admission = one_second_each(1)

    def after(seconds: float) -> float:
        admission.note_deadline(Urgency(2, NOW + seconds, 0, NOW), 1)
        return admission.tight_seconds

    assert after(2.9) == 100  # cannot be kept: two batches and the margin take 3
    assert [after(50), after(85)] == [pytest.approx(90), 85]
    assert [after(100), after(86)] == [pytest.approx(85.85), 86]


@pytest.mark.parametrize(("ratio", "margin"), [(1.25, 1.25), (1.75, 1.75)])
def test_the_margin_follows_the_promises_of_the_last_ten_seconds(ratio: float, margin: float) -> None:
    admission = one_second_each(1)
    for _ in range(31):
        admission.note_ratio(ratio, NOW)
    assert admission.margin(NOW) == 1.5
    admission.note_ratio(ratio, NOW)
    assert admission.margin(NOW + 10) == margin
    assert admission.margin(NOW + 10.5) == 1.5


def test_one_broken_promise_in_a_hundred_counts_and_one_in_three_hundred_does_not() -> None:
    few, many = one_second_each(1), one_second_each(1)
    for admission, kept in ((few, 99), (many, 300)):
        admission.note_ratio(1.75, NOW)
        for _ in range(kept):
            admission.note_ratio(1.25, NOW)
    assert (few.margin(NOW), many.margin(NOW)) == (1.75, 1.25)


def test_ragged_batches_teach_the_gain_and_the_time_of_a_full_batch() -> None:
    admission = Admission(BatchLimits(max_items=8, max_cost=800, deadline_seconds=100), uniform=False)
    for size in (100, 200):
        admission.table.seed(size, size / 100)
    admission.refresh()
    assert (admission.batch_size, admission.full_seconds, admission.gain) == (400, 2.0, 1.0)
    assert [admission.work(200), admission.alone_seconds(3)] == [2.0, 3]
    admission.record(200, 4.0, 2.0, saturated=False)
    assert (admission.full_seconds, admission.gain) == (2.0, 1.0)
    admission.record(200, 4.0, 2.0, saturated=True)
    assert [admission.full_seconds, admission.gain] == pytest.approx([2.0, 0.9])
    admission.record(200, 2.0, 4.0, saturated=True)  # never dearer than one by one
    assert [admission.full_seconds, admission.gain] == pytest.approx([2.4, 0.92])
    bounds = admission.bounds_at(NOW, 10)
    assert (bounds.max_items, bounds.max_size, bounds.now, bounds.uniform) == (8, 400, NOW, False)


def test_short_ragged_batches_teach_the_gain_too_but_batches_without_work_do_not() -> None:
    admission = Admission(BatchLimits(max_items=8, max_cost=800, deadline_seconds=100), uniform=False)
    for size in (100, 200):
        admission.table.seed(size, size / 1000)
    admission.refresh()
    admission.record(200, 0.5, 0.25, saturated=True)
    assert [admission.full_seconds, admission.gain] == pytest.approx([0.21, 0.9])
    admission.record(200, 0.0, 0.25, saturated=True)
    assert [admission.full_seconds, admission.gain] == pytest.approx([0.21, 0.9])


def test_batches_stay_within_a_bound_until_it_is_lifted() -> None:
    admission = Admission(BatchLimits(max_items=8, deadline_seconds=100), uniform=True)
    for size in (1, 2, 4, 8):
        admission.table.seed(size, 1 + 0.125 * size)
    admission.refresh()
    admission.bound(3)
    assert (admission.batch_size, admission.bounds_at(NOW, 1).max_items, admission.full_seconds) == (
        3,
        3,
        1.375,
    )
    admission.bound(100)
    assert admission.batch_size == 8
    admission.bound(None)
    assert (admission.batch_size, admission.bounds_at(NOW, 1).max_size) == (8, 0)


def test_a_ragged_bound_holds_where_the_limits_give_none() -> None:
    admission = Admission(BatchLimits(max_items=8), uniform=False)
    assert admission.bounds_at(NOW, 1).max_size == 0
    admission.bound(300)
    assert admission.bounds_at(NOW, 1).max_size == 300


def sized(**seconds_by_size: float) -> Admission:
    """A model of items of one shape with times given as `s8=0.5`."""
    admission = Admission(BatchLimits(max_items=16, deadline_seconds=100), uniform=True)
    for size, seconds in seconds_by_size.items():
        admission.table.seed(int(size[1:]), seconds)
    admission.refresh()
    return admission


def test_a_smaller_batch_is_chosen_where_it_gives_nearly_the_best_rate() -> None:
    admission = sized(s1=1.0, s2=1.01, s4=2.0, s8=4.0, s16=8.0)
    assert admission.batch_size == 16  # still good enough when the model starts
    admission.batch_size = 32
    admission.refresh()
    assert admission.batch_size == 2
    admission = sized(s1=1.0, s2=1.04, s4=2.0, s8=4.0, s16=8.0)
    admission.batch_size = 32
    admission.refresh()
    assert admission.batch_size == 4


def test_with_several_priorities_five_percent_of_the_rate_are_given_up_for_short_batches() -> None:
    admission = sized(s1=1.0, s2=1.04, s4=2.0, s8=4.0, s16=8.0)
    admission.note_taken(1, 0.1, NOW)
    admission.note_taken(2, 0.1, NOW)
    admission.refresh()
    assert admission.batch_size == 2
    admission = sized(s1=1.0, s2=1.06, s4=2.0, s8=4.0, s16=8.0)
    admission.note_taken(1, 0.1, NOW)
    admission.note_taken(2, 0.1, NOW + 9.9)
    admission.refresh()
    assert admission.batch_size == 4
    admission.note_taken(2, 0.1, NOW + 10)  # the higher priority came too long ago
    admission.batch_size = 16
    admission.refresh()
    assert admission.batch_size == 16


@pytest.mark.parametrize(("share", "size"), [(0.9696, 16), (0.9704, 8)])
def test_a_size_is_kept_while_it_gives_97_percent_of_the_best_rate(share: float, size: int) -> None:
    admission = sized(s1=4.0, s2=4.0, s4=4.0, s8=4.0, s16=8.0)
    admission.batch_size = 8
    admission.table.seed(8, 4.0 / share)
    admission.refresh()
    assert admission.batch_size == size


def test_batches_grow_by_a_quarter_once_promises_were_made() -> None:
    admission = sized(s1=1.0, s2=1.0, s4=1.0, s8=1.0, s16=1.0)
    admission.batch_size = 4
    admission.note_ratio(1.0, NOW)
    sizes = []
    for _ in range(4):
        admission.refresh()
        sizes.append(admission.batch_size)
    assert sizes == [5, 7, 9, 12]


def test_two_batches_with_their_margin_fit_the_deadline() -> None:
    for deadline, size in ((12.0, 3), (11.9, 2), (15.1, 4)):  # one item takes a second, the margin is 1.5
        admission = Admission(BatchLimits(max_items=16, deadline_seconds=deadline), uniform=True)
        for seed in (1, 2, 4, 8):
            admission.table.seed(seed, 1.0 + seed)
        admission.refresh()
        assert admission.batch_size == size


def test_the_next_larger_size_is_tried_after_16_batches_and_then_after_64() -> None:
    admission = sized(s1=1.0, s2=2.0, s4=4.0)
    admission.batch_size = 1
    assert [admission.bounds_at(NOW, 3).max_items for _ in range(20)] == [1] * 20  # too few wait
    sizes = [admission.bounds_at(NOW, 4).max_items for _ in range(16 + 64)]
    assert [i + 1 for i, size in enumerate(sizes) if size == 2] == [16, 80]


def test_halving_makes_room_for_others_on_the_lane() -> None:
    admission = sized(s1=1.25, s2=1.5, s4=2.0, s8=3.0, s16=5.0)
    urgency = Urgency(2, NOW + 100, NOW, NOW)

    def shared(work_seconds: float, deadline: float) -> Sequence[float]:
        return (40 * work_seconds,)

    admission.be_patient(50)
    admission.check(QueueOrder(), [1], urgency, shared)
    assert (admission.batch_size, admission.full_seconds) == (2, 1.5)


def test_batches_are_halved_no_more_than_needed() -> None:
    admission = sized(s1=1.25, s2=1.5, s4=2.0, s8=3.0, s16=5.0)
    admission.be_patient(50)
    admission.check(QueueOrder(), [1], Urgency(2, NOW + 100, NOW, NOW), lambda work, deadline: (20 * work,))
    assert (admission.batch_size, admission.full_seconds) == (8, 3.0)


async def test_batches_of_one_item_are_not_halved() -> None:
    admission = sized(s1=1.25, s2=1.5, s4=2.0, s8=3.0, s16=5.0)
    admission.be_patient(50)
    order = order_with(NOW + 1000)
    with pytest.raises(Overloaded):
        admission.check(order, [1], Urgency(2, NOW + 100, NOW, NOW), lambda work, deadline: (100 * work,))
    assert admission.batch_size == 1


async def test_batches_are_not_halved_where_no_other_model_needs_the_lane() -> None:
    admission = sized(s1=1.25, s2=1.5, s4=2.0, s8=3.0, s16=5.0)
    order = order_with(NOW + 1000)
    with pytest.raises(Overloaded):
        admission.check(order, [1], Urgency(2, NOW + 100, NOW, NOW), lambda work, deadline: (90.0,))
    assert admission.batch_size == 16


async def test_items_behind_a_newcomer_are_not_delayed_by_their_own_work_on_the_lane() -> None:
    admission, order = one_second_each(1), order_with(NOW + 3)
    urgency = Urgency(2, NOW + 100, NOW, NOW)
    assert admission.check(order, [1], urgency, lambda work, deadline: (work,)) == (0, 0.0)


def test_two_lanes_share_the_batches() -> None:
    admission = Admission(BatchLimits(max_items=1, deadline_seconds=100), uniform=True)
    admission.record(1, 1, 4.0, saturated=False)  # the first batch that was timed
    assert admission.full_seconds == 4.0
    assert [admission.done_seconds(work, [0.0, 1.0]) for work in (0, 1, 2, 3, 4)] == [0, 4, 5, 8, 9]


def test_one_size_says_nothing_of_what_batching_gives() -> None:
    admission = Admission(BatchLimits(max_items=2), uniform=True)
    admission.table.seed(1, 0.1)
    admission.refresh()
    assert (admission.full_seconds, admission.batch_size) == (0.0, 2)


def test_patience_turns_pairs_into_single_items() -> None:
    admission = sized(s1=1.0, s2=1.5)
    admission.batch_size = 2
    admission.refresh()
    admission.be_patient(1.25)
    assert admission.batch_size == 1


def test_the_size_is_chosen_again_every_16_batches() -> None:
    admission = sized(s1=1.0, s2=1.0, s4=1.0, s8=1.0, s16=1.0)
    admission.batch_size = 4
    sizes = []
    for _ in range(32):
        admission.record(4, 4, 1.0, saturated=True)
        sizes.append(admission.batch_size)
        admission.batch_size = 4
    assert [i + 1 for i, size in enumerate(sizes) if size != 4] == [16, 32]
