"""Requests from a worker to the engine and back: outputs, errors, deadlines, lost processes."""

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
from tests.service.multiprocess.connection_pair import HeldQueue, connection_pair, pending_of, until


async def test_outputs_come_back_with_their_times() -> None:
    queue = HeldQueue()
    with connection_pair(queue) as pair:
        pending = pending_of(3, 7, 5)
        pair.submit(pending)
        remote = await queue.next()
        remote.queue_seconds, remote.infer_seconds, remote.batch_items = 0.25, 0.5, 9
        queue.answer(remote)
        outputs = await pending.outputs()
        for size, row in zip((3, 7, 5), outputs, strict=True):
            np.testing.assert_array_equal(row["y"], 2 * np.arange(size, dtype=np.float32))
        assert (pending.queue_seconds, pending.infer_seconds, pending.batch_items) == (0.25, 0.5, 9)
        outputs[0]["y"][:] = 0  # the worker's own memory


async def test_everything_that_the_queue_needs_is_sent() -> None:
    queue = HeldQueue()
    with connection_pair(queue) as pair:
        deadline = time.monotonic() + 1234.5678
        pair.submit(pending_of(3, 7, deadline=deadline, label="the-id", priority=3))
        remote = await queue.next()
        assert (remote.deadline, remote.label, remote.priority) == (deadline, "the-id", 3)
        assert [item.cost for item in remote.items] == [3, 7]
        assert remote.items[0].inputs["x"].dtype == np.float32


async def test_many_requests_through_a_real_queue_and_lane() -> None:
    run = Double()
    batcher = batcher_of(BatchLimits(max_items=8))
    lane = lane_of(batcher, run)
    with connection_pair(batcher, memory_bytes=2**20) as pair:
        pending_requests = [pending_of(2, 2) for _ in range(200)]
        for value, pending in enumerate(pending_requests):
            for item in pending.items:
                item.inputs["x"][:] = value
            pair.submit(pending)
        for value, pending in enumerate(pending_requests):
            for row in await pending.outputs():
                np.testing.assert_array_equal(row["y"], [2 * value] * 2)
        await until(lambda: pair.connection._inputs.used_bytes == 0)
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
async def test_an_error_arrives_unchanged(make: Callable[[], RequestError], when: str) -> None:
    queue = HeldQueue()
    with connection_pair(queue) as pair:
        pending = pending_of(3, 4)
        if when == "refused":
            queue.refuse = make
        pair.submit(pending)
        if when == "failed":
            remote = await queue.next()
            remote.settle(remote.items[0], make())
            del remote
        with pytest.raises(type(make())) as raised:
            await pending.outputs()
        assert vars(raised.value) == vars(make())
        assert str(raised.value) == str(make())
        await until(lambda: pair.connection._inputs.used_bytes == 0)


async def test_an_unexpected_error_in_the_engine_fails_only_its_request() -> None:
    queue = HeldQueue()
    queue.refuse = lambda: AssertionError("a bug")
    with connection_pair(queue) as pair:
        pending = pending_of(3)
        pair.submit(pending)
        with pytest.raises(InferenceFailed) as raised:
            await pending.outputs()
        assert "a bug" not in str(raised.value)
        queue.refuse = None
        pair.submit(pending := pending_of(3))
        queue.answer(await queue.next())
        await pending.outputs()


async def test_a_model_that_is_not_there_is_not_ready() -> None:
    with connection_pair(HeldQueue()) as pair:
        pending = pending_of(3)
        pair.connection.submit("other", "1", pending)
        with pytest.raises(NotReady):
            await pending.outputs()


async def test_the_engine_drops_a_cancelled_request() -> None:
    queue = HeldQueue()
    with connection_pair(queue) as pair:
        pending = pending_of(3)
        pair.submit(pending)
        remote = await queue.next()
        pending.abandon(ClientGone("hung up"), "gone")
        await until(lambda: remote.dropped == "gone")
        pending.close()


async def test_a_request_cancelled_while_it_is_sent_is_dropped_too() -> None:
    queue = HeldQueue()
    with connection_pair(queue) as pair:
        pending = pending_of(3)
        pending.abandon(ClientGone("hung up"), "gone")
        pair.submit(pending)
        remote = await queue.next()
        await until(lambda: remote.dropped == "gone")
        pending.close()


async def test_a_deadline_ends_the_request_on_both_sides() -> None:
    queue = HeldQueue()
    with connection_pair(queue) as pair:
        pending = pending_of(3, deadline=time.monotonic() + 0.05)
        pair.submit(pending)
        remote = await queue.next()
        with pytest.raises(DeadlineExceeded):
            await pending.outputs()
        await until(lambda: remote.dropped == "expired")


async def test_inputs_are_not_overwritten_while_the_engine_uses_them() -> None:
    queue = HeldQueue()
    with connection_pair(queue) as pair:
        pending = pending_of(1000)
        pair.submit(pending)
        remote = await queue.next()
        kept = remote.items[0].inputs["x"]
        pending.abandon(ClientGone("hung up"), "gone")
        await until(lambda: remote.dropped is not None)
        with pytest.raises(Overloaded):
            for _ in range(100):  # fill the memory
                pair.submit(pending_of(1000))
        np.testing.assert_array_equal(kept, np.arange(1000))
        pending.close()


async def test_results_of_one_loop_iteration_wake_the_worker_once() -> None:
    queue = HeldQueue()
    with connection_pair(queue) as pair:
        wakes: list[int] = []
        on_tokens = pair.connection._tokens._on_tokens

        def counted(tokens: Sequence[Token]) -> None:
            wakes.append(len(tokens))
            on_tokens(tokens)

        pair.connection._tokens._on_tokens = counted
        pending_requests = [pending_of(3) for _ in range(20)]
        for pending in pending_requests:
            pair.submit(pending)
        await until(lambda: len(queue.pending_requests) == 20)
        for remote in queue.pending_requests:
            queue.answer(remote)
        await asyncio.gather(*(pending.outputs() for pending in pending_requests))
        assert wakes == [20]


async def test_more_outputs_than_fit_at_once_all_arrive() -> None:
    queue = HeldQueue()
    with connection_pair(queue) as pair:
        pending_requests = [pending_of(2000) for _ in range(7)]
        for pending in pending_requests:
            pair.submit(pending)
        await until(lambda: len(queue.pending_requests) == 7)
        for remote in queue.pending_requests:
            large = {"y": np.full(2**13, 5, np.float32)}  # half of the memory each
            remote.settle(remote.items[0], large)
        for pending in pending_requests:
            assert ((await pending.outputs())[0]["y"] == 5).all()


async def test_outputs_that_never_fit_are_an_error() -> None:
    queue = HeldQueue()
    with connection_pair(queue) as pair:
        pending = pending_of(3)
        pair.submit(pending)
        remote = await queue.next()
        remote.settle(remote.items[0], {"y": np.zeros(2**16, np.float32)})
        with pytest.raises(TooLarge):
            await pending.outputs()


async def test_a_lost_engine_fails_the_requests_in_flight() -> None:
    queue = HeldQueue()
    with connection_pair(queue) as pair:
        pending_requests = [pending_of(3) for _ in range(3)]
        for pending in pending_requests:
            pair.submit(pending)
        await until(lambda: len(queue.pending_requests) == 3)
        pair.worker_connection.close()  # as the kernel does for a dead process
        for pending in pending_requests:
            with pytest.raises(NotReady) as raised:
                await pending.outputs()
            assert raised.value.retry_after_seconds
        assert pair.disconnected == ["engine"]
        with pytest.raises(NotReady):
            pair.submit(late := pending_of(3))
        late.close()


async def test_a_lost_worker_leaves_nothing_behind() -> None:
    queue = HeldQueue()
    with connection_pair(queue) as pair:
        pending = pending_of(3)
        pair.submit(pending)
        remote = await queue.next()
        pair.connection._tokens.close()  # as the kernel does for a dead process
        await until(lambda: pair.disconnected == ["worker"])
        assert remote.dropped == "gone"
        pending.close()


async def test_the_memory_of_a_lost_connection_is_freed_at_once() -> None:
    queue = HeldQueue()
    gc.collect()
    gc.disable()
    try:
        with connection_pair(queue) as pair:
            pending = pending_of(3)
            pair.submit(pending)
            queue.answer(await queue.next())
            await pending.outputs()
            connection, worker_connection = weakref.ref(pair.connection), weakref.ref(pair.worker_connection)
        del pair
        assert connection() is None and worker_connection() is None
    finally:
        gc.enable()


async def test_a_worker_that_shuts_down_fails_its_requests_in_flight() -> None:
    queue = HeldQueue()
    with connection_pair(queue) as pair:
        pending = pending_of(3)
        pair.submit(pending)
        remote = await queue.next()
        pair.connection.fail_all(NotReady("the server is shutting down"))
        with pytest.raises(NotReady):
            await pending.outputs()
        await until(lambda: remote.dropped == "gone")


async def test_a_state_arrives() -> None:
    queue = HeldQueue()
    with connection_pair(queue) as pair:
        pair.worker_connection.send_state({"loaded": True, "models": {"m": [1, None, "a"]}})
        await until(lambda: bool(pair.states))
        assert pair.states == [{"loaded": True, "models": {"m": [1, None, "a"]}}]
