"""How a request ends: with its answers, or with the first failure, and only once."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from service.engine.queue.pending_request import PendingRequest, deliver, drop_error, is_wanted
from service.errors import ClientGone, DeadlineExceeded, InferenceFailed
from tests.service.engine.engine_tools import pending_of


def answer(pending: PendingRequest) -> None:
    for item in pending.items:
        pending.settle(item, {"y": item.inputs["x"]})


ENDS: dict[str, tuple[Callable[[PendingRequest], None], str]] = {
    "answered": (answer, "result"),
    "failed": (lambda pending: pending.settle(pending.items[1], InferenceFailed("no")), "error"),
    "given up": (lambda pending: pending.abandon(ClientGone("gone"), "gone"), "error"),
    "closed": (PendingRequest.close, "cancelled"),
}


def outcome(future: asyncio.Future[Any]) -> str:
    if future.cancelled():
        return "cancelled"
    return "error" if future.exception() else "result"


@pytest.mark.parametrize("end", ENDS)
async def test_a_request_reports_its_end_once(end: str) -> None:
    told: list[str] = []
    pending = pending_of(1, 2)
    pending.over = lambda future: told.append(outcome(future))
    make_end, expected = ENDS[end]
    make_end(pending)
    assert told == [expected]
    pending.abandon(ClientGone("again"), "gone")
    pending.close()
    assert told == [expected]


async def test_a_new_request_has_waited_and_run_for_no_time() -> None:
    pending = PendingRequest(deadline=1e12)
    assert (pending.label, pending.priority, pending.dropped, pending.items) == ("", 2, None, ())
    assert (pending.queue_seconds, pending.infer_seconds, pending.batch_items) == (0.0, 0.0, 0)
    assert pending.loop is asyncio.get_running_loop()
    pending = PendingRequest(deadline=1e12, label="a", priority=3)
    inputs = [{"x": np.zeros(1)}, {"x": np.ones(1)}]
    pending.fill(inputs, [5, 7])
    assert (pending.label, pending.priority) == ("a", 3)
    assert [(item.index, item.cost, item.inputs) for item in pending.items] == [
        (0, 5, inputs[0]),
        (1, 7, inputs[1]),
    ]
    item = pending.items[0]
    assert (item.submitted, item.followers, item.content, item.claimed) == (0.0, None, None, False)
    assert (item.predicted_seconds, item.pending, item.waiters()) == (0.0, pending, (item,))
    item.followers = [pending.items[1]]
    assert item.waiters() == pending.items


async def test_each_item_needs_a_cost() -> None:
    with pytest.raises(ValueError, match="zip"):
        PendingRequest(deadline=1e12).fill([{}, {}], [1])


async def test_a_deadline_is_passed_when_it_is_reached() -> None:
    pending = PendingRequest(deadline=1e12)
    assert [pending.expired(now) for now in (1e12 - 1, 1e12, 1e12 + 1)] == [False, True, True]


async def test_a_request_expires_at_its_deadline_and_at_once_if_that_is_past() -> None:
    future, past = PendingRequest(deadline=time.monotonic() + 0.05), PendingRequest(deadline=0.0)
    with pytest.raises(DeadlineExceeded, match=r"^the deadline passed before the answer was there$"):
        await asyncio.wait_for(past.outputs(), 0.5)
    assert (past.dropped, future.dropped) == ("expired", None)
    with pytest.raises(DeadlineExceeded):
        await asyncio.wait_for(future.outputs(), 5)


async def test_a_closed_request_does_not_expire() -> None:
    pending = PendingRequest(deadline=time.monotonic() + 0.01)
    pending.close()
    assert pending.dropped == "gone"
    await asyncio.sleep(0.03)
    assert pending.dropped == "gone"
    pending.settle(pending_of(1).items[0], {})


async def test_the_first_reason_to_drop_a_request_is_kept() -> None:
    pending = pending_of(1)
    pending.abandon(InferenceFailed("first"), "failed_sibling")
    pending.abandon(ClientGone("second"), "gone")
    assert pending.dropped == "failed_sibling"
    with pytest.raises(InferenceFailed, match="first"):
        await pending.outputs()
    dropped = pending_of(1)
    dropped.dropped = "shutdown"
    dropped.close()
    assert dropped.dropped == "shutdown"


async def test_an_answered_request_that_is_closed_is_not_dropped() -> None:
    pending = pending_of(1)
    answer(pending)
    pending.close()
    assert pending.dropped is None


async def test_a_closed_request_leaves_no_exception_unseen() -> None:
    unseen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unseen.append(context))
    pending = pending_of(1)
    pending.abandon(ClientGone("gone"), "gone")
    pending.close()
    del pending
    gc.collect()
    await asyncio.sleep(0)
    assert unseen == []


async def test_an_admission_that_ends_first_gives_its_result_or_error() -> None:
    loop, pending = asyncio.get_running_loop(), pending_of(1)
    admitted: asyncio.Future[int] = loop.create_future()
    loop.call_later(0.01, admitted.set_result, 7)
    assert await pending.unless_failed(admitted) == 7
    refused: asyncio.Future[int] = loop.create_future()
    refused.set_exception(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await pending.unless_failed(refused)
    answered, admitted = pending_of(1), loop.create_future()
    answer(answered)  # by equal items, while others of its items are not admitted yet
    loop.call_later(0.01, admitted.set_result, 8)
    assert await answered.unless_failed(admitted) == 8


async def test_a_request_that_fails_first_does_not_wait_for_its_admission() -> None:
    unseen: list[dict[str, Any]] = []
    loop, pending = asyncio.get_running_loop(), pending_of(1)
    loop.set_exception_handler(lambda loop, context: unseen.append(context))
    pending.abandon(ClientGone("gone"), "gone")
    late: list[asyncio.Future[int]] = [loop.create_future(), loop.create_future()]
    for admission in late:
        with pytest.raises(ClientGone):
            await asyncio.wait_for(pending.unless_failed(admission), 5)
    late[0].set_exception(ZeroDivisionError())
    late[1].cancel()
    await asyncio.sleep(0)
    del late, admission
    gc.collect()
    await asyncio.sleep(0)
    assert unseen == []


async def test_results_from_another_thread_reach_all_requests_in_one_step_of_the_loop() -> None:
    pending_requests = [pending_of(1), pending_of(2)]
    items = [pending.items[0] for pending in pending_requests]
    thread = threading.Thread(target=deliver, args=([(item, {"y": item.inputs["x"]}) for item in items],))
    thread.start()
    thread.join()
    values = [(await asyncio.wait_for(pending.outputs(), 5))[0]["y"][0] for pending in pending_requests]
    assert values == [1, 2]
    deliver([])


def test_results_for_a_closed_loop_are_ignored() -> None:
    async def make() -> PendingRequest:
        return pending_of(1)

    pending = asyncio.run(make())
    deliver([(pending.items[0], {})])
    assert pending.dropped is None


async def test_an_item_is_wanted_while_one_of_its_waiters_can_be_in_time() -> None:
    item, other = pending_of(1, deadline=9e11).items[0], pending_of(1, deadline=8e11).items[0]
    assert [is_wanted(item, now) for now in (9e11 - 1, 9e11)] == [True, False]
    assert [is_wanted(item, 8e11, least) for least in (1e11 - 1, 1e11)] == [True, False]
    item.followers = [other]
    item.pending.dropped = "gone"
    assert [is_wanted(item, now) for now in (8e11 - 1, 8e11)] == [True, False]
    other.pending.dropped = "gone"
    assert not is_wanted(item, 0)


@pytest.mark.parametrize(
    ("reason", "error", "text"),
    [
        ("expired", DeadlineExceeded, "the deadline passed before the item could run"),
        ("gone", ClientGone, "the client hung up"),
        ("failed_sibling", InferenceFailed, "another item of the request failed"),
    ],
)
def test_each_reason_has_its_error(reason: str, error: type[Exception], text: str) -> None:
    result = drop_error(reason)
    assert (type(result), str(result)) == (error, text)
