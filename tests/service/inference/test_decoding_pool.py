"""The decoding threads: order, and who is refused before waiting for one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from service.errors import Overloaded
from service.inference.decoding_pool import DecodingPool


@pytest.fixture
def decoding_pool() -> Iterator[DecodingPool]:
    decoding_pool = DecodingPool(1)
    yield decoding_pool
    decoding_pool.shutdown()


async def learn(decoding_pool: DecodingPool, model: str, seconds: float) -> None:
    """Have it see one item of a model that takes at least so long."""
    await decoding_pool.run(threading.Event().wait, seconds, kind=model)


async def test_the_most_urgent_goes_first_and_equals_in_the_order_they_came(
    decoding_pool: DecodingPool,
) -> None:
    gate = threading.Event()
    ran: list[str] = []
    blocked = decoding_pool.run(gate.wait)
    waiting = [
        decoding_pool.run(ran.append, name, priority=priority)
        for name, priority in (("low", 9), ("first", 2), ("second", 2), ("high", 1), ("inner", 0))
    ]
    gate.set()
    await asyncio.gather(blocked, *waiting)
    assert ran == ["inner", "high", "first", "second", "low"]


async def test_results_and_errors_reach_who_waits(decoding_pool: DecodingPool) -> None:
    assert await decoding_pool.run(int, "7") == 7
    with pytest.raises(ValueError, match="seven"):
        await decoding_pool.run(int, "seven")


async def test_a_free_thread_refuses_nobody_however_long_it_is_expected_to_take(
    decoding_pool: DecodingPool,
) -> None:
    await learn(decoding_pool, "slow", 0.02)
    decoding_pool.check("slow", 2, 1, left_seconds=0.001)


async def test_who_would_wait_too_long_is_told_when_to_come_back(decoding_pool: DecodingPool) -> None:
    await learn(decoding_pool, "slow", 0.02)
    gate = threading.Event()
    waiting = [decoding_pool.run(gate.wait, kind="slow", priority=2) for _ in range(10)]
    with pytest.raises(Overloaded) as refused:
        decoding_pool.check("slow", 2, 1, left_seconds=0.05)
    assert refused.value.reason == "decoding"
    assert refused.value.retry_after_seconds is not None
    assert refused.value.retry_after_seconds >= 11 * 0.02 - 0.05
    decoding_pool.check("slow", 2, 1, left_seconds=60)
    decoding_pool.check("slow", 1, 1, left_seconds=0.05)  # all who wait are less urgent
    gate.set()
    await asyncio.gather(*waiting)
    decoding_pool.check("slow", 2, 1, left_seconds=0.05)


async def test_the_batch_that_follows_must_fit_the_deadline_too(decoding_pool: DecodingPool) -> None:
    await learn(decoding_pool, "model", 0.001)
    gate = threading.Event()
    waiting = [decoding_pool.run(gate.wait, kind="model", priority=2) for _ in range(2)]
    decoding_pool.check("model", 2, 1, left_seconds=5)
    decoding_pool.note_run("model", 4.0)
    with pytest.raises(Overloaded):
        decoding_pool.check("model", 2, 1, left_seconds=5)
    gate.set()
    await asyncio.gather(*waiting)


async def test_a_model_that_was_never_decoded_is_not_refused_for_itself(decoding_pool: DecodingPool) -> None:
    gate = threading.Event()
    waiting = [decoding_pool.run(gate.wait, kind="new", priority=2) for _ in range(5)]
    decoding_pool.check("new", 2, 1, left_seconds=0.001)
    gate.set()
    await asyncio.gather(*waiting)


async def test_what_fails_at_once_does_not_make_the_others_look_fast(decoding_pool: DecodingPool) -> None:
    await learn(decoding_pool, "model", 0.05)
    for _ in range(30):
        with pytest.raises(ValueError, match="bad"):
            await decoding_pool.run(int, "bad", kind="model")
    gate = threading.Event()
    waiting = [decoding_pool.run(gate.wait, kind="model", priority=2) for _ in range(4)]
    with pytest.raises(Overloaded):
        decoding_pool.check("model", 2, 1, left_seconds=0.1)
    gate.set()
    await asyncio.gather(*waiting)


async def test_work_whose_request_is_gone_is_skipped(decoding_pool: DecodingPool) -> None:
    gate = threading.Event()
    ran: list[str] = []
    blocked = decoding_pool.run(gate.wait)
    gone, stays = decoding_pool.run(ran.append, "gone"), decoding_pool.run(ran.append, "stays")
    gone.cancel()
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(blocked, stays)
    assert ran == ["stays"]


async def test_at_the_end_nobody_waits_for_ever() -> None:
    decoding_pool = DecodingPool(1)
    gate = threading.Event()
    blocked, waiting = decoding_pool.run(gate.wait), decoding_pool.run(int, "1")
    await asyncio.sleep(0)
    decoding_pool.shutdown()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.set()
    await blocked
