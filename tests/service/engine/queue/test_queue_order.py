"""The order of those that wait: sorted by urgency, fair among equals, and its sums always right."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.queue.pending_request import Item
from service.engine.queue.queue_order import QueueOrder
from tests.service.engine.engine_tools import pending_of

WORK = 0.5


def item_of(value: float) -> Item:
    return pending_of(value).items[0]


def value_of(item: Item) -> float:
    return float(item.inputs["x"][0])


def put(order: QueueOrder, priority: int, due: float, value: float = 0.0, work: float = WORK) -> int:
    """Put an item where it belongs."""
    position = order.position(priority, due)
    order.insert(position, priority, due, item_of(value), work)
    return position


async def test_an_empty_order_has_no_work_and_no_deadline() -> None:
    order = QueueOrder()
    assert (order.total_work, order.first_deadline, len(order)) == (0.0, float("inf"), 0)


async def test_priority_counts_first_then_the_due_time_then_who_came_first() -> None:
    order = QueueOrder()
    for value, (priority, due) in enumerate([(2, 5.0), (2, 3.0), (1, 9.0), (2, 3.0), (3, 1.0), (2, 5.0)]):
        put(order, priority, due, value)
    assert [value_of(item) for item in order.items] == [2, 1, 3, 0, 5, 4]


async def test_work_before_a_place_is_that_of_all_who_stand_before_it() -> None:
    order = QueueOrder()
    for due, work in ((1.0, 0.1), (2.0, 0.2), (3.0, 0.4)):
        put(order, 2, due, work=work)
    assert [order.work_before(position) for position in range(4)] == pytest.approx([0, 0.1, 0.3, 0.7])


async def test_a_rank_ends_where_less_urgent_ones_begin() -> None:
    order = QueueOrder()
    assert order.rank_end(1) == 0
    for priority in (1, 1, 2, 4):
        put(order, priority, 1.0)
    assert [order.rank_end(priority) for priority in (1, 2, 3, 4, 9)] == [2, 3, 3, 4, 4]


@pytest.mark.parametrize("positions", [[0, 1], [1, 3], [4], [0, 2, 4], [0, 1, 2, 3, 4], []])
async def test_who_is_taken_is_gone_and_the_others_stay_in_order(positions: list[int]) -> None:
    order = QueueOrder()
    for value in range(5):
        put(order, 2, value, value)
    assert [value_of(item) for item in order.take(positions)] == positions
    left = [value for value in range(5) if value not in positions]
    assert [value_of(item) for item in order.items] == left
    assert len(order) == len(order.keys) == len(order.works) == len(left)
    assert order.total_work == pytest.approx(WORK * len(left))


async def test_only_the_unwanted_are_removed() -> None:
    order = QueueOrder()
    for value in range(6):
        put(order, 2, value, value)
    gone = order.remove_unless(lambda item: value_of(item) % 3 > 0)
    assert [value_of(item) for item in gone] == [0, 3]
    assert [(key[1], value_of(item)) for key, item, _ in order.from_position(2)] == [(4, 4), (5, 5)]


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 5), st.booleans()), max_size=40))
def test_the_order_is_sorted_and_its_sum_right_whatever_comes_and_goes(
    steps: list[tuple[int, int, bool]],
) -> None:
    async def run() -> None:
        order = QueueOrder()
        for priority, due, leaves in steps:
            if leaves and len(order):
                order.take([due % len(order)])
            else:
                put(order, priority, float(due), work=priority)
            assert all(one < other for one, other in pairwise(order.keys))
            assert order.total_work == pytest.approx(sum(order.works))
            assert len(order.keys) == len(order.items) == len(order.works)

    asyncio.run(run())
