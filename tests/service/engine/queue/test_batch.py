"""The rows of a batch: which item has which, who writes it, and what a run gets."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.engine.queue.batch import Batch, BatchLimits, RowSpec, padded_cost, stack
from service.engine.queue.pending_request import Item
from service.engine.queue.staging import Staging
from service.engine.runtime.shape_buckets import Buckets
from tests.service.engine.engine_tools import ROWS, pending_of


def items_of(*values: float, costs: list[int] | None = None) -> tuple[Item, ...]:
    return pending_of(*values, costs=costs).items


def batch_of(rows: int, buckets: Buckets | None = None) -> Batch:
    """A batch with a buffer whose rows are -1 until they are written."""
    return Batch({"x": np.full((rows, 2), -1, dtype=np.float32)}, buckets)


def values_of(batch: Batch) -> list[float]:
    array = batch.arrays()["x"]
    assert (array[:, 0] == array[:, 1]).all()
    return [float(value) for value in array[:, 0]]


def test_limits_have_defaults() -> None:
    assert BatchLimits() == BatchLimits(32, None, 0.0, 512, 1.0, 0)


def test_a_new_batch_has_no_items_and_no_work() -> None:
    batch = batch_of(2)
    assert (batch.items, batch.work, batch.lower_priority_work, batch.priority) == ((), 0.0, 0.0, 0)
    assert (batch.claimed, batch.saturated, batch.staged_items) == (0.0, False, ())


async def test_the_size_of_a_batch_is_its_padded_cost_or_that_of_its_bucket() -> None:
    items = items_of(1, 2, 3, 4, 5, costs=[10, 33, 10, 10, 10])
    for buffers, buckets, size in (
        (None, None, 5 * 33),
        (None, Buckets(8), 6 * 40),
        ({"x": np.zeros((8, 2), dtype=np.float32)}, Buckets(8), 6 * 33),
    ):
        batch = Batch(buffers, buckets)
        batch.items = items
        assert batch.size == size
        assert batch.padding_ratio == size / 73
    assert padded_cost(items[1:3]) == 66


async def test_items_without_a_cost_are_not_padded() -> None:
    batch = Batch(None)
    batch.items = items_of(1, 2, costs=[0, 0])
    assert batch.padding_ratio == 1.0


async def test_rows_are_given_while_there_are_free_ones() -> None:
    batch, items = batch_of(2), items_of(1, 2)
    assert batch.has_free_row
    batch.stage(items[0])
    assert batch.has_free_row
    batch.stage(items[1])
    assert not batch.has_free_row
    batch.unstage(items[:1])  # a thread may still write to its row
    assert not batch.has_free_row
    assert batch.staged_items == items[1:]
    assert not Batch(None).has_free_row


async def test_staged_rows_are_written_and_read_without_a_copy() -> None:
    batch, items = batch_of(4), items_of(1, 2)
    for item in items:
        batch.stage(item)
    batch.close(items)
    batch.write_rows()
    array = batch.arrays()["x"]
    assert array.tolist() == [[1, 1], [2, 2]]
    buffers = batch.release_buffers()
    assert buffers is not None
    assert array.base is buffers["x"]
    assert buffers["x"].tolist() == [[1, 1], [2, 2], [-1, -1], [-1, -1]]
    assert batch.release_buffers() is None


async def test_the_lane_writes_the_rows_that_no_thread_has_written() -> None:
    batch, items = batch_of(4), items_of(1, 2)
    for item in items:
        batch.stage(item)
    batch.close(items)
    assert values_of(batch) == [1, 2]


@pytest.mark.parametrize(
    ("staged", "running", "rows"),
    [
        ([0, 1], [0, 1, 2], [0, 1, 2]),  # a free row for an item that came late
        ([0, 1, 2], [0, 1, 3], [0, 1, 3]),  # the row of an item that does not run
        ([0, 1, 2, 3], [4, 0, 5], [4, 0, 5]),
        ([0, 1, 2, 3], [3, 2], [3, 2]),
        ([0, 1, 2, 3], [4, 5, 6, 7], [4, 5, 6, 7]),
        ([], [0, 1], [0, 1]),
    ],
)
async def test_every_item_that_runs_has_its_row(
    staged: Sequence[int], running: Sequence[int], rows: Sequence[float]
) -> None:
    batch, items = batch_of(4), items_of(*range(8))
    for index in staged:
        batch.stage(items[index])
    batch.close([items[index] for index in running])
    assert values_of(batch) == rows
    assert [item.index for item in batch.items] == running


async def test_a_row_that_a_slow_thread_still_writes_is_written_again_for_its_new_item() -> None:
    batch, (slow, new) = batch_of(1), items_of(1, 2)
    batch.stage(slow)
    batch.unstage([slow])
    batch.unstage([new])  # has no row
    batch.close([new])
    assert values_of(batch) == [2]


async def test_the_arrays_of_a_batch_are_read_when_all_threads_have_written() -> None:
    batch, items = batch_of(1), items_of(1)
    batch.stage(items[0])
    batch.close(items)
    began, gate = threading.Event(), threading.Event()
    write = batch._write

    def slow_write(item: Item, row: int) -> None:
        began.set()
        assert gate.wait(20)
        write(item, row)

    batch._write = slow_write  # type: ignore[method-assign]
    values: list[float] = []
    writer = threading.Thread(target=batch.write_rows)
    writer.start()
    assert began.wait(20)
    reader = threading.Thread(target=lambda: values.extend(values_of(batch)))
    reader.start()
    reader.join(0.05)
    assert reader.is_alive()
    gate.set()
    for thread in (writer, reader):
        thread.join(20)
    assert values == [1]


async def test_a_row_that_cannot_be_written_does_not_block_the_batch() -> None:
    batch, items = batch_of(1), items_of(1)
    items[0].inputs = {"x": np.zeros(2, dtype=np.float64)}
    batch.stage(items[0])
    with pytest.raises(TypeError, match="Cannot cast"):
        batch.write_rows()
    assert batch.release_buffers() is not None


async def test_a_ragged_batch_stacks_its_rows() -> None:
    batch, items = Batch(None), items_of(1, 2)
    batch.close(items)
    batch.write_rows()
    assert values_of(batch) == [1, 2]
    assert batch.staged_items == ()
    assert batch.release_buffers() is None


async def test_the_longest_times_of_a_requests_items_are_kept() -> None:
    one, other = pending_of(1, 2), pending_of(1)
    batch = Batch(None)
    batch.items = one.items
    one.items[0].followers = [other.items[0]]
    for item, submitted in ((one.items[0], 10.0), (one.items[1], 12.0), (other.items[0], 14.0)):
        item.submitted = submitted
    batch.claimed = 15.0
    batch.note_times(0.5)
    assert (one.queue_seconds, one.infer_seconds, one.batch_items) == (5.0, 0.5, 2)
    assert (other.queue_seconds, other.infer_seconds, other.batch_items) == (1.0, 0.5, 2)
    batch.items = one.items[1:]
    batch.claimed = 14.0
    batch.note_times(0.25)
    assert (one.queue_seconds, one.infer_seconds, one.batch_items) == (5.0, 0.5, 2)


def described(arrays: Mapping[str, NDArray[Any]]) -> list[tuple[str, str, Any]]:
    return [(name, array.dtype.name, array.tolist()) for name, array in arrays.items()]


def test_rows_of_one_shape_are_stacked_and_keep_their_dtype() -> None:
    rows: list[dict[str, NDArray[Any]]] = [
        {"a": np.full(2, i, dtype=np.int32), "b": np.full((1, 2), i, dtype=np.float16)} for i in (1, 2)
    ]
    assert described(stack(rows)) == [
        ("a", "int32", [[1, 1], [2, 2]]),
        ("b", "float16", [[[1, 1]], [[2, 2]]]),
    ]


def test_padding_keeps_the_dtype_and_goes_on_with_the_next_input() -> None:
    rows: list[dict[str, NDArray[Any]]] = [
        {"a": np.ones(1, dtype=np.int32), "b": np.ones(1, dtype=np.int64)},
        {"a": np.ones(2, dtype=np.int32), "b": np.ones(1, dtype=np.int64)},
    ]
    assert described(stack(rows)) == [("a", "int32", [[1, 0], [1, 1]]), ("b", "int64", [[1], [1]])]


def test_rows_need_the_same_number_of_axes() -> None:
    with pytest.raises(ValueError, match="zip"):
        stack([{"a": np.ones(1)}, {"a": np.ones((1, 1))}])


class Allocations:
    """Count the buffers that are made."""

    def __init__(self) -> None:
        self.made: list[tuple[tuple[int, ...], str]] = []

    def __call__(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        self.made.append((shape, dtype))
        return np.zeros(shape, dtype)


async def test_buffers_have_a_row_for_each_item_and_are_reused() -> None:
    allocations = Allocations()
    rows = {"x": RowSpec((2,), "float32"), "mask": RowSpec((), "bool")}
    staging = Staging(rows, 4, allocate=allocations)
    assert allocations.made == [((4, 2), "float32"), ((4,), "bool")]
    first = staging.close(())
    assert len(allocations.made) == 4
    buffers = first.release_buffers()
    staging.reuse(buffers, 1)
    staging.close(())
    assert len(allocations.made) == 4
    assert staging.open._buffers is buffers


@pytest.mark.parametrize(("lanes", "kept"), [(0, 2), (1, 2), (2, 4)])
async def test_two_buffers_a_lane_are_kept(lanes: int, kept: int) -> None:
    allocations = Allocations()
    staging = Staging(ROWS, 1, allocate=allocations)
    for _ in range(6):
        staging.reuse({"x": np.zeros((1, 2), dtype=np.float32)}, lanes)
    for _ in range(6):
        staging.close(())
    assert len(allocations.made) == 1 + 6 - kept


async def test_ragged_models_have_no_buffers() -> None:
    staging = Staging(None, 4, Buckets(8))
    items = items_of(1, 2, costs=[33, 33])
    staging.check(items)
    staging.stage(items)
    assert staging.open.staged_items == ()
    batch = staging.close(items)
    assert (batch.items, batch.size) == (items, 2 * 40)
    staging.reuse(batch.release_buffers(), 1)
    assert (staging.close(items).size, staging.open.has_free_row) == (2 * 40, False)


async def test_items_are_staged_while_there_are_free_rows() -> None:
    staging, items = Staging(ROWS, 2), items_of(1, 2, 3)
    staging.stage(items)
    assert staging.open.staged_items == items[:2]
    batch = staging.close(items[:2])
    assert values_of(batch) == [1, 2]
    assert staging.open.staged_items == ()


@pytest.mark.parametrize(
    ("array", "fits"),
    [
        (np.zeros(2, dtype=np.float32), True),
        (np.zeros(3, dtype=np.float32), False),
        (np.zeros(2, dtype=np.float64), False),
    ],
)
async def test_items_must_have_the_shape_and_dtype_of_the_graph(array: NDArray[Any], *, fits: bool) -> None:
    staging, items = Staging(ROWS, 2), items_of(1, 2)
    items[1].inputs = {"x": array}
    if fits:
        staging.check(items)
        return
    with pytest.raises(AssertionError, match="the graph takes"):
        staging.check(items)
