"""Batch selection: known queues give known batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from service.engine.queue.batch_selection import BatchBounds, select_batch
from service.engine.queue.queue_order import QueueOrder
from tests.service.engine.engine_tools import pending_of

NOW = 1000.0
FAR = 2000.0
BOUNDS = BatchBounds(
    uniform=False,
    max_items=8,
    max_size=0,
    seconds=lambda size: 1.0,
    full_seconds=1.0,
    margin=1.0,
    gain=1.0,
    now=NOW,
)


def order_of(
    costs: Sequence[int],
    *,
    priorities: Sequence[int] | None = None,
    deadlines: Sequence[float] | None = None,
    works: Sequence[float] | None = None,
) -> QueueOrder:
    """A queue whose items stand in the given order."""
    order = QueueOrder()
    for i, cost in enumerate(costs):
        pending = pending_of(i, costs=[cost], deadline=deadlines[i] if deadlines else FAR)
        pending._timer.cancel()
        priority = priorities[i] if priorities else 2
        order.insert(i, priority, float(i), pending.items[0], works[i] if works else 1.0)
    return order


def table(**seconds_by_size: float) -> Callable[[float], float]:
    """Times given as `s10=1.0`."""
    return lambda size: seconds_by_size[f"s{int(size)}"]


def chosen(order: QueueOrder, **changes: object) -> list[int]:
    return list(select_batch(order, replace(BOUNDS, **changes)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("max_items", "max_size", "count"), [(3, 0, 3), (9, 0, 5), (9, 35, 3), (9, 30, 3), (9, 5, 1), (2, 35, 2)]
)
async def test_items_of_one_shape_run_in_order_up_to_the_limits(
    max_items: int, max_size: int, count: int
) -> None:
    order = order_of([10] * 5)
    assert chosen(order, uniform=True, max_items=max_items, max_size=max_size) == list(range(count))


@pytest.mark.parametrize(
    ("seconds", "full", "count"),
    [(lambda size: 0.005 * size, 1.0, 11), (lambda size: 8 + size, 0.0, 1), (lambda size: 18 + size, 0.0, 2)],
)
async def test_lower_priority_lengthens_an_urgent_batch_by_a_tenth(
    seconds: Callable[[float], float], full: float, count: int
) -> None:
    order = order_of([2] * 16, priorities=[1] + [2] * 15)
    assert chosen(order, uniform=True, max_items=16, seconds=seconds, full_seconds=full) == list(range(count))


async def test_items_of_the_same_priority_run_together_however_long_it_takes() -> None:
    order = order_of([2] * 4, priorities=[1, 1, 1, 2])
    assert chosen(order, uniform=True, max_items=3, seconds=lambda size: size**2) == [0, 1, 2]
    assert chosen(order, uniform=True, max_items=4, seconds=lambda size: size**2) == [0, 1, 2]


@pytest.mark.parametrize(("cost", "expected"), [(60, [0, 1]), (59, [0]), (166, [0, 1]), (167, [0])])
async def test_padding_adds_at_most_a_quarter(cost: int, expected: list[int]) -> None:
    assert chosen(order_of([100, cost])) == expected


@pytest.mark.parametrize(("max_size", "expected"), [(0, [0, 1, 2]), (149, [0, 1]), (100, [0, 1]), (99, [0])])
async def test_the_padded_size_is_bounded(max_size: int, expected: list[int]) -> None:
    assert chosen(order_of([50] * 3), max_size=max_size) == expected


async def test_the_number_of_items_is_bounded() -> None:
    assert chosen(order_of([50] * 4), max_items=3) == [0, 1, 2]


async def test_the_nearest_costs_are_chosen_first() -> None:
    order = order_of([100, 90, 97, 110, 104])
    assert [chosen(order, max_items=count) for count in (1, 2, 3, 4)] == [
        [0],
        [0, 2],
        [0, 2, 4],
        [0, 1, 2, 4],
    ]


@pytest.mark.parametrize(("seconds", "expected"), [(1.98, [0, 1]), (1.985, [0])])
async def test_one_more_item_must_save_a_hundredth(seconds: float, expected: list[int]) -> None:
    assert chosen(order_of([10, 10]), seconds=table(s10=1.0, s20=seconds)) == expected


async def test_two_more_items_may_pay_where_one_does_not() -> None:
    order = order_of([10, 10, 10])
    assert chosen(order, seconds=table(s10=1.0, s20=2.0, s30=2.5)) == [0, 1, 2]


async def test_a_batch_stops_where_more_items_cost_more_than_they_save() -> None:
    order = order_of([10, 10, 10])
    assert chosen(order, seconds=table(s10=1.0, s20=1.5, s30=2.9)) == [0, 1]


async def test_before_anything_was_timed_items_of_like_cost_run_together() -> None:
    assert chosen(order_of([10, 10, 10], works=[0, 0, 0]), seconds=lambda size: 0.0) == [0, 1, 2]


@pytest.mark.parametrize(("left", "expected"), [(3.0, [0, 1]), (2.9, [0])])
async def test_the_first_item_is_not_made_late(left: float, expected: list[int]) -> None:
    order = order_of([10, 10], deadlines=[NOW + left, FAR])
    assert chosen(order, seconds=table(s10=1.0, s20=1.5), margin=2.0) == expected


@pytest.mark.parametrize(
    ("left", "margin", "expected"),
    [
        (1.625, 1.0, [0, 2]),  # a spare time of half a second
        (1.5, 1.0, [0]),
        (1.75, 2.0, [0]),
        (2.125, 2.0, [0, 2]),
        (1.0, 1.0, [0, 2]),  # late in any case
        (1.125, 1.0, [0]),  # in time with nothing to spare
    ],
)
async def test_an_item_that_is_passed_over_is_not_made_late(
    left: float, margin: float, expected: list[int]
) -> None:
    order = order_of([100, 1, 100], deadlines=[FAR, NOW + left, FAR], works=[1.0, 0.125, 1.0])
    assert chosen(order, seconds=table(s100=1.0, s200=1.5), margin=margin) == expected


@pytest.mark.parametrize(("left", "expected"), [(1.8125, [0, 3]), (1.75, [0])])
async def test_items_that_are_passed_over_run_one_after_the_other(left: float, expected: list[int]) -> None:
    order = order_of([100, 1, 1, 100], deadlines=[FAR, FAR, NOW + left, FAR], works=[1.0, 0.125, 0.25, 1.0])
    assert chosen(order, seconds=table(s100=1.0, s200=1.5), gain=0.5) == expected


async def test_an_item_that_would_make_others_late_is_skipped_for_a_more_urgent_one() -> None:
    order = order_of([100, 90, 1, 100], deadlines=[FAR, FAR, NOW + 1.1875, FAR], works=[1.0, 1.0, 0.125, 1.0])
    assert chosen(order, seconds=table(s100=1.0, s200=1.125), gain=0.0) == [0, 1]


@pytest.mark.parametrize(("seconds", "expected"), [(1.2, [0, 1]), (1.21, [0])])
async def test_lower_priority_lengthens_an_urgent_ragged_batch_by_a_tenth(
    seconds: float, expected: list[int]
) -> None:
    order = order_of([10, 10], priorities=[1, 2])
    assert chosen(order, seconds=table(s10=1.0, s20=seconds), full_seconds=1.0) == expected


async def test_higher_priority_chooses_before_lower_priority_fills_up() -> None:
    order = order_of([10, 10, 10, 10], priorities=[1, 1, 2, 2])
    seconds = table(s10=1.0, s20=1.5, s30=1.74, s40=1.76)
    assert chosen(order, seconds=seconds, full_seconds=1.0) == [0, 1, 2]


async def test_only_the_nearest_64_costs_on_each_side_are_looked_at() -> None:
    assert len(chosen(order_of([100] * 80), max_items=200)) == 1 + 64
    assert len(chosen(order_of([100] + [101] * 79), max_items=200)) == 1 + 64


async def test_of_two_costs_that_pad_alike_the_smaller_one_is_chosen() -> None:
    assert chosen(order_of([100, 125, 80]), max_items=2) == [0, 2]
