"""Requests from a worker to the engine and back: answers, errors, deadlines, losses on either side."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from service.engine.queue.batch import BatchLimits
from service.errors import (
    ClientGone,
    DeadlineExceeded,
    InferenceFailed,
    NotReady,
    Overloaded,
    RequestError,
    TooLarge,
)
from service.multiprocess.token_socket import Token
from tests.service.engine.engine_tools import Double, batcher_of, lane_of
from tests.service.multiprocess.joined import Held, joined, pending_of, until


async def test_an_answer_comes_back_with_its_times() -> None:
    held = Held()
    with joined(held) as both:
        pending = pending_of(3, 7, 5)
        both.submit(pending)
        there = await held.next()
        there.queue_seconds, there.infer_seconds, there.batch_items = 0.25, 0.5, 9
        held.answer(there)
        outputs = await pending.outputs()
        for size, row in zip((3, 7, 5), outputs, strict=True):
            np.testing.assert_array_equal(row["y"], 2 * np.arange(size, dtype=np.float32))
        assert (pending.queue_seconds, pending.infer_seconds, pending.batch_items) == (0.25, 0.5, 9)
        outputs[0]["y"][:] = 0  # the worker's own memory


async def test_all_that_the_queue_looks_at_travels() -> None:
    held = Held()
    with joined(held) as both:
        deadline = time.monotonic() + 1234.5678
        both.submit(pending_of(3, 7, deadline=deadline, label="the-id", priority=3))
        there = await held.next()
        assert (there.deadline, there.label, there.priority) == (deadline, "the-id", 3)
        assert [item.cost for item in there.items] == [3, 7]
        assert there.items[0].inputs["x"].dtype == np.float32


async def test_many_requests_through_a_real_queue_and_lane() -> None:
    run = Double()
    batcher = batcher_of(BatchLimits(max_items=8))
    lane = lane_of(batcher, run)
    with joined(batcher, memory_bytes=2**20) as both:
        pending_requests = [pending_of(2, 2) for _ in range(200)]
        for value, pending in enumerate(pending_requests):
            for item in pending.items:
                item.inputs["x"][:] = value
            both.submit(pending)
        for value, pending in enumerate(pending_requests):
            for row in await pending.outputs():
                np.testing.assert_array_equal(row["y"], [2 * value] * 2)
        await until(lambda: both.connection._inputs.taken_bytes == 0)
    assert max(run.sizes) > 1
    lane.stop()


ERRORS: dict[str, Callable[[], RequestError]] = {
    "overloaded": lambda: Overloaded("the queue is full", reason="queue_full", retry_after_seconds=0.75),
    "not ready": lambda: NotReady("the model is being unloaded", retry_after_seconds=1),
    "too late": lambda: DeadlineExceeded("too late"),
    "failed": lambda: InferenceFailed("no"),
    "too large": lambda: TooLarge("too many", param="inputs[2]"),
}


@pytest.mark.parametrize("make", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("when", ["refused", "failed"])
async def test_an_error_arrives_as_the_very_same(make: Callable[[], RequestError], when: str) -> None:
    held = Held()
    with joined(held) as both:
        pending = pending_of(3, 4)
        if when == "refused":
            held.refuse = make
        both.submit(pending)
        if when == "failed":
            there = await held.next()
            there.settle(there.items[0], make())
            del there
        with pytest.raises(type(make())) as raised:
            await pending.outputs()
        assert vars(raised.value) == vars(make())
        assert str(raised.value) == str(make())
        await until(lambda: both.connection._inputs.taken_bytes == 0)


async def test_what_nobody_foresaw_in_the_engine_fails_the_request_alone() -> None:
    held = Held()
    held.refuse = lambda: AssertionError("a bug")
    with joined(held) as both:
        pending = pending_of(3)
        both.submit(pending)
        with pytest.raises(InferenceFailed) as raised:
            await pending.outputs()
        assert "a bug" not in str(raised.value)
        held.refuse = None
        both.submit(pending := pending_of(3))
        held.answer(await held.next())
        await pending.outputs()


async def test_a_model_that_is_not_there_is_not_ready() -> None:
    with joined(Held()) as both:
        pending = pending_of(3)
        both.connection.submit("other", "1", pending)
        with pytest.raises(NotReady):
            await pending.outputs()


async def test_the_engine_drops_what_a_client_gave_up() -> None:
    held = Held()
    with joined(held) as both:
        pending = pending_of(3)
        both.submit(pending)
        there = await held.next()
        pending.abandon(ClientGone("hung up"), "gone")
        await until(lambda: there.dropped == "gone")
        pending.close()


async def test_a_request_given_up_while_it_is_being_sent_is_dropped_too() -> None:
    held = Held()
    with joined(held) as both:
        pending = pending_of(3)
        pending.abandon(ClientGone("hung up"), "gone")
        both.submit(pending)
        there = await held.next()
        await until(lambda: there.dropped == "gone")
        pending.close()


async def test_a_deadline_ends_the_wait_on_both_sides() -> None:
    held = Held()
    with joined(held) as both:
        pending = pending_of(3, deadline=time.monotonic() + 0.05)
        both.submit(pending)
        there = await held.next()
        with pytest.raises(DeadlineExceeded):
            await pending.outputs()
        await until(lambda: there.dropped == "expired")


async def test_inputs_stay_untouched_while_the_engine_looks_at_them() -> None:
    held = Held()
    with joined(held) as both:
        pending = pending_of(1000)
        both.submit(pending)
        there = await held.next()
        kept = there.items[0].inputs["x"]
        pending.abandon(ClientGone("hung up"), "gone")
        await until(lambda: there.dropped is not None)
        with pytest.raises(Overloaded):
            for _ in range(100):  # fill the memory
                both.submit(pending_of(1000))
        np.testing.assert_array_equal(kept, np.arange(1000))
        pending.close()


async def test_results_of_one_turn_wake_the_worker_once() -> None:
    held = Held()
    with joined(held) as both:
        wakes: list[int] = []
        on_tokens = both.connection._link._on_tokens

        def counted(tokens: Sequence[Token]) -> None:
            wakes.append(len(tokens))
            on_tokens(tokens)

        both.connection._link._on_tokens = counted
        pending_requests = [pending_of(3) for _ in range(20)]
        for pending in pending_requests:
            both.submit(pending)
        await until(lambda: len(held.pending_requests) == 20)
        for there in held.pending_requests:
            held.answer(there)
        await asyncio.gather(*(pending.outputs() for pending in pending_requests))
        assert wakes == [20]


async def test_more_answers_than_fit_at_once_all_arrive() -> None:
    held = Held()
    with joined(held) as both:
        pending_requests = [pending_of(2000) for _ in range(7)]
        for pending in pending_requests:
            both.submit(pending)
        await until(lambda: len(held.pending_requests) == 7)
        for there in held.pending_requests:
            large = {"y": np.full(2**13, 5, np.float32)}  # half of the memory each
            there.settle(there.items[0], large)
        for pending in pending_requests:
            assert ((await pending.outputs())[0]["y"] == 5).all()


async def test_an_answer_that_never_fits_is_an_error() -> None:
    held = Held()
    with joined(held) as both:
        pending = pending_of(3)
        both.submit(pending)
        there = await held.next()
        there.settle(there.items[0], {"y": np.zeros(2**16, np.float32)})
        with pytest.raises(TooLarge):
            await pending.outputs()


async def test_a_lost_engine_fails_what_was_in_flight() -> None:
    held = Held()
    with joined(held) as both:
        pending_requests = [pending_of(3) for _ in range(3)]
        for pending in pending_requests:
            both.submit(pending)
        await until(lambda: len(held.pending_requests) == 3)
        both.relay.close()  # as the kernel does for a dead process
        for pending in pending_requests:
            with pytest.raises(NotReady) as raised:
                await pending.outputs()
            assert raised.value.retry_after_seconds
        assert both.lost == ["engine"]
        with pytest.raises(NotReady):
            both.submit(late := pending_of(3))
        late.close()


async def test_a_lost_worker_leaves_nothing_behind() -> None:
    held = Held()
    with joined(held) as both:
        pending = pending_of(3)
        both.submit(pending)
        there = await held.next()
        both.connection._link.close()  # as the kernel does for a dead process
        await until(lambda: both.lost == ["worker"])
        assert there.dropped == "gone"
        pending.close()


async def test_the_memory_of_a_lost_connection_is_free_at_once() -> None:
    held = Held()
    gc.collect()
    gc.disable()
    try:
        with joined(held) as both:
            pending = pending_of(3)
            both.submit(pending)
            held.answer(await held.next())
            await pending.outputs()
            connection, relay = weakref.ref(both.connection), weakref.ref(both.relay)
        del both
        assert connection() is None and relay() is None
    finally:
        gc.enable()


async def test_a_worker_that_ends_fails_what_it_waits_for() -> None:
    held = Held()
    with joined(held) as both:
        pending = pending_of(3)
        both.submit(pending)
        there = await held.next()
        both.connection.give_up(NotReady("the server is shutting down"))
        with pytest.raises(NotReady):
            await pending.outputs()
        await until(lambda: there.dropped == "gone")


async def test_the_state_arrives_between_answers() -> None:
    held = Held()
    with joined(held) as both:
        both.relay.tell({"loaded": True, "models": {"m": [1, None, "a"]}})
        await until(lambda: bool(both.states))
        assert both.states == [{"loaded": True, "models": {"m": [1, None, "a"]}}]
