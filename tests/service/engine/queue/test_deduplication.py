"""Equal items share one execution, and every request still gets an answer or an error of its own."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from service.engine.queue.answer_cache import AnswerCache, copied_outputs
from service.engine.queue.batch import BatchLimits
from service.engine.queue.batcher import Batcher
from service.engine.queue.deduplication import are_equal, content_of
from service.engine.queue.pending_request import PendingRequest
from service.errors import InferenceFailed, RequestError
from tests.service.engine.engine_tools import Recorder, batcher_of, pending_of


def run(batcher: Batcher, error: RequestError | None = None) -> list[float]:
    """Answer the next batch, and tell what ran."""
    batch = batcher.claim()
    if batch is None:
        return []
    values = [float(item.inputs["x"][0]) for item in batch.items]
    batcher.settle([(item, error or {"y": item.inputs["x"] * 2}) for item in batch.items])
    batcher.recycle(batch)
    return values


async def answers(pending: PendingRequest) -> list[float]:
    return [float(row["y"][0]) for row in await asyncio.wait_for(pending.outputs(), 5)]


async def test_equal_items_of_two_requests_run_once_and_both_get_the_answer() -> None:
    batcher = batcher_of()
    one, other = pending_of(1, 2), pending_of(2, 3)
    batcher.submit(one)
    batcher.submit(other)
    assert run(batcher) == [1, 2, 3]
    assert (await answers(one), await answers(other)) == ([2, 4], [4, 6])


async def test_equal_items_of_one_request_run_once() -> None:
    batcher = batcher_of()
    pending = pending_of(7, 7, 7)
    batcher.submit(pending)
    assert run(batcher) == [7]
    assert await answers(pending) == [14, 14, 14]


async def test_an_item_that_runs_already_answers_an_equal_newcomer() -> None:
    batcher = batcher_of()
    one, other = pending_of(1), pending_of(1)
    batcher.submit(one)
    batch = batcher.claim()
    assert batch is not None
    batcher.submit(other)
    assert batcher.queue_items == 0
    batcher.settle([(item, {"y": item.inputs["x"]}) for item in batch.items])
    assert (await answers(one), await answers(other)) == ([1], [1])


async def test_the_first_one_hanging_up_does_not_take_the_answer_from_the_second() -> None:
    batcher = batcher_of()
    one, other = pending_of(1), pending_of(1)
    batcher.submit(one)
    batcher.submit(other)
    one.close()
    assert run(batcher) == [1]
    assert await answers(other) == [2]


async def test_nobody_follows_an_item_that_nobody_waits_for() -> None:
    batcher = batcher_of(BatchLimits(max_queue_items=2))
    gone = pending_of(1)
    batcher.submit(gone)
    gone.close()
    urgency = pending_of(1, 2)  # finds the queue full until what is gone makes room
    batcher.submit(urgency)
    assert run(batcher) == [1, 2]
    assert await answers(urgency) == [2, 4]


async def test_an_error_reaches_everybody_who_shared_the_run() -> None:
    batcher = batcher_of()
    pending_requests = [pending_of(1), pending_of(1)]
    for pending in pending_requests:
        batcher.submit(pending)
    run(batcher, InferenceFailed("broken"))
    for pending in pending_requests:
        with pytest.raises(InferenceFailed, match="broken"):
            await pending.outputs()


async def test_after_the_answer_an_equal_item_runs_again() -> None:
    batcher = batcher_of()
    for _ in range(2):
        batcher.submit(pending_of(1))
        assert run(batcher) == [1]


async def test_a_more_urgent_equal_item_does_not_wait_for_a_less_urgent_one() -> None:
    batcher = batcher_of()
    batcher.submit(pending_of(1, deadline=2e12))
    batcher.submit(pending_of(1, deadline=1e12))
    assert batcher.queue_items == 2


async def test_large_items_that_differ_outside_of_the_sample_are_not_confused() -> None:
    batcher = batcher_of(rows=None)
    large = np.zeros(100_000, dtype=np.float32)
    other = large.copy()
    other[1] = 1
    for array in (large, other, large.copy()):
        pending = PendingRequest(deadline=1e12)
        pending.fill([{"x": array}], [1])
        batcher.submit(pending)
    batch = batcher.claim()
    assert batch is not None
    assert [float(item.inputs["x"][1]) for item in batch.items] == [0, 1, 0]


async def test_a_kept_answer_is_given_without_a_run_even_when_the_queue_is_full() -> None:
    batcher = batcher_of(BatchLimits(answer_cache_bytes=10_000, max_queue_items=1))
    batcher.submit(pending_of(1))
    assert run(batcher) == [1]
    batcher.submit(pending_of(2))
    again = pending_of(1)
    batcher.submit(again)
    assert await answers(again) == [2]
    assert run(batcher) == [2]


async def test_a_failure_is_not_kept() -> None:
    batcher = batcher_of(BatchLimits(answer_cache_bytes=10_000))
    failed = pending_of(1)
    batcher.submit(failed)
    run(batcher, InferenceFailed("broken"))
    with pytest.raises(InferenceFailed):
        await failed.outputs()
    batcher.submit(pending_of(1))
    assert run(batcher) == [1]


async def test_what_was_shared_and_what_was_kept_is_told() -> None:
    seen = Recorder()
    batcher = batcher_of(BatchLimits(answer_cache_bytes=10_000), observer=seen)
    for pending in (pending_of(1, 2, 2), pending_of(1)):
        batcher.submit(pending)
    run(batcher)
    batcher.submit(pending_of(1, 3))
    assert seen.shared == 2
    assert seen.cache_asked_for == [(0, 3), (0, 1), (1, 1)]
    assert seen.cache_sizes[0] == 0 < seen.cache_sizes[-1] < 10_000


async def test_a_queue_without_a_cache_tells_nothing_of_one() -> None:
    seen = Recorder()
    batcher = batcher_of(observer=seen)
    batcher.submit(pending_of(1))
    run(batcher)
    assert (seen.cache_asked_for, seen.cache_sizes) == ([], [])


async def test_the_memory_of_kept_answers_stays_within_its_bound_and_is_given_back_in_the_end() -> None:
    seen = Recorder()
    batcher = batcher_of(BatchLimits(answer_cache_bytes=2000), observer=seen)
    running = None
    for value in range(50):
        batcher.submit(pending_of(value))
        if value < 49:
            run(batcher)
        else:
            running = batcher.claim()
    assert 1000 < max(seen.cache_sizes) <= 2000
    batcher.close("unloaded")
    assert running is not None
    batcher.settle([(item, {"y": np.zeros(1)}) for item in running.items])
    assert seen.cache_sizes[-1] == 0


def test_a_cache_lets_go_of_what_was_unused_longest_and_never_grows_over_its_size() -> None:
    cache = AnswerCache(3000)
    for name in ("a", "b", "c"):
        cache.put(name, {"y": np.zeros(100)})
        assert cache.size_bytes <= 3000
        assert cache.get("a") is not None
    assert cache.get("b") is None
    cache.put("large", {"y": np.zeros(1000)})
    assert cache.get("large") is None


def large_with(value: float) -> PendingRequest:
    """A request for a large item; the value is outside of the sample."""
    array = np.zeros(100_000, dtype=np.float32)
    array[1] = value
    pending = PendingRequest(deadline=1e12)
    pending.fill([{"x": array}], [1])
    return pending


async def test_cached_answers_of_items_that_differ_outside_of_the_sample_are_not_confused() -> None:
    batcher = batcher_of(BatchLimits(answer_cache_bytes=1_000_000), rows=None)
    for value in (0, 1):
        pending = large_with(value)
        batcher.submit(pending)
        batch = batcher.claim()
        assert batch is not None
        batcher.settle([(item, {"y": item.inputs["x"][1:2]}) for item in batch.items])
        assert await answers(pending) == [value]


async def test_items_behind_one_with_a_cached_answer_run() -> None:
    batcher = batcher_of(BatchLimits(answer_cache_bytes=10_000))
    batcher.submit(pending_of(1))
    assert run(batcher) == [1]
    pending = pending_of(1, 2)
    batcher.submit(pending)
    assert run(batcher) == [2]
    assert await answers(pending) == [2, 4]


def test_an_item_is_known_by_every_nth_element_of_its_large_arrays() -> None:
    table = np.arange(65536, dtype=np.float32).reshape(256, 256)
    line = np.arange(4097).astype(np.uint8)
    expected = (
        ((256, 256), np.arange(0, 65536, 512, dtype=np.float32).tobytes()),
        ((4097,), line[::32].tobytes()),
        ((4096,), line[:4096].tobytes()),
    )
    assert content_of({"a": table, "b": line, "c": line[:4096]}, exact=False) == expected


def test_exact_content_depends_on_name_dtype_shape_and_every_element() -> None:
    array = np.zeros(6, dtype=np.float32)
    changed = array.copy()
    changed[5] = 1
    arrays: list[dict[str, np.ndarray]] = [
        {"x": array},
        {"y": array},
        {"x": array.astype(np.int32)},
        {"x": array.reshape(2, 3)},
        {"x": changed},
        {"x": array, "y": array},
    ]
    contents = [content_of(inputs, exact=True) for inputs in arrays]
    assert len(set(contents)) == 6
    assert content_of({"x": np.zeros((6, 2), dtype=np.float32)[:, 0]}, exact=True) == contents[0]


def test_items_are_equal_if_names_dtypes_and_elements_are() -> None:
    array = np.zeros(2, dtype=np.float32)
    assert are_equal({"x": array}, {"x": array.copy()})
    assert not are_equal({"x": array}, {"x": array, "y": array})
    assert not are_equal({"x": array}, {"x": array.astype(np.float64)})
    assert not are_equal({"x": array}, {"x": array + 1})


@pytest.mark.parametrize(
    ("deadline", "priority", "follows"),
    [(8e11, 2, True), (8e11 - 1, 2, False), (9e11, 1, False), (9e11, 3, True)],
)
async def test_an_item_follows_one_that_is_at_least_as_urgent(
    deadline: float, priority: int, *, follows: bool
) -> None:
    batcher = batcher_of()
    batcher.submit(pending_of(1, deadline=8e11))
    batcher.submit(pending_of(1, deadline=deadline, priority=priority))
    assert batcher.queue_items == (1 if follows else 2)


async def test_a_running_item_answers_more_urgent_equal_items_too() -> None:
    batcher = batcher_of()
    batcher.submit(pending_of(1, deadline=8e11))
    assert batcher.claim() is not None
    batcher.submit(pending_of(1, deadline=1e11, priority=1))
    assert batcher.queue_items == 0


def test_the_size_of_a_cache_is_that_of_its_arrays_and_a_fixed_amount_an_entry() -> None:
    cache = AnswerCache(2 * (256 + 80))
    for name in ("a", "b", "b"):
        cache.put(name, {"y": np.zeros(10)})
    assert cache.size_bytes == 2 * (256 + 80)
    cache.put("c", {"y": np.zeros(10), "z": np.zeros(1)})
    assert cache.size_bytes == 256 + 88
    assert [cache.get(name) is None for name in "abc"] == [True, True, False]
    cache.close()
    cache.put("d", {})
    assert (cache.size_bytes, cache.get("c"), cache.get("d")) == (0, None, None)


def test_cached_outputs_are_read_only_copies() -> None:
    batch = np.zeros((4, 2))
    copies = copied_outputs({"y": batch[0]})
    assert copies["y"].base is None
    assert not copies["y"].flags.writeable


def test_an_answer_as_large_as_the_cache_is_kept() -> None:
    cache = AnswerCache(256 + 80)
    cache.put("a", {"y": np.zeros(10)})
    assert cache.size_bytes == 256 + 80
    cache.put("b", {"y": np.zeros(11)})
    assert (cache.get("a") is None, cache.get("b") is None) == (False, True)
