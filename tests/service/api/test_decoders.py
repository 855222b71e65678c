"""The decoding threads: order, and who is refused before waiting for one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from service.api.decoders import Decoders
from service.errors import Overloaded


@pytest.fixture
def decoders() -> Iterator[Decoders]:
    decoders = Decoders(1)
    yield decoders
    decoders.shutdown()


async def learn(decoders: Decoders, model: str, seconds: float) -> None:
    """Have it see one item of a model that takes at least so long."""
    await decoders.run(threading.Event().wait, seconds, kind=model)


async def test_the_most_urgent_goes_first_and_equals_in_the_order_they_came(decoders: Decoders) -> None:
    gate = threading.Event()
    ran: list[str] = []
    blocked = decoders.run(gate.wait)
    waiting = [
        decoders.run(ran.append, name, priority=priority)
        for name, priority in (("low", 9), ("first", 2), ("second", 2), ("high", 1), ("inner", 0))
    ]
    gate.set()
    await asyncio.gather(blocked, *waiting)
    assert ran == ["inner", "high", "first", "second", "low"]


async def test_results_and_errors_reach_who_waits(decoders: Decoders) -> None:
    assert await decoders.run(int, "7") == 7
    with pytest.raises(ValueError, match="seven"):
        await decoders.run(int, "seven")


async def test_a_free_thread_refuses_nobody_however_long_it_is_expected_to_take(decoders: Decoders) -> None:
    await learn(decoders, "slow", 0.02)
    decoders.check("slow", 2, 1, left_seconds=0.001)


async def test_who_would_wait_too_long_is_told_when_to_come_back(decoders: Decoders) -> None:
    await learn(decoders, "slow", 0.02)
    gate = threading.Event()
    waiting = [decoders.run(gate.wait, kind="slow", priority=2) for _ in range(10)]
    with pytest.raises(Overloaded) as refused:
        decoders.check("slow", 2, 1, left_seconds=0.05)
    assert refused.value.reason == "decode"
    assert refused.value.retry_after_seconds is not None
    assert refused.value.retry_after_seconds >= 11 * 0.02 - 0.05
    decoders.check("slow", 2, 1, left_seconds=60)
    decoders.check("slow", 1, 1, left_seconds=0.05)  # all who wait are less urgent
    gate.set()
    await asyncio.gather(*waiting)
    decoders.check("slow", 2, 1, left_seconds=0.05)


async def test_the_batch_that_follows_must_fit_the_deadline_too(decoders: Decoders) -> None:
    await learn(decoders, "model", 0.001)
    gate = threading.Event()
    waiting = [decoders.run(gate.wait, kind="model", priority=2) for _ in range(2)]
    decoders.check("model", 2, 1, left_seconds=5)
    decoders.note_run("model", 4.0)
    with pytest.raises(Overloaded):
        decoders.check("model", 2, 1, left_seconds=5)
    gate.set()
    await asyncio.gather(*waiting)


async def test_a_model_that_was_never_decoded_is_not_refused_for_itself(decoders: Decoders) -> None:
    gate = threading.Event()
    waiting = [decoders.run(gate.wait, kind="new", priority=2) for _ in range(5)]
    decoders.check("new", 2, 1, left_seconds=0.001)
    gate.set()
    await asyncio.gather(*waiting)


async def test_what_fails_at_once_does_not_make_the_others_look_fast(decoders: Decoders) -> None:
    await learn(decoders, "model", 0.05)
    for _ in range(30):
        with pytest.raises(ValueError, match="bad"):
            await decoders.run(int, "bad", kind="model")
    gate = threading.Event()
    waiting = [decoders.run(gate.wait, kind="model", priority=2) for _ in range(4)]
    with pytest.raises(Overloaded):
        decoders.check("model", 2, 1, left_seconds=0.1)
    gate.set()
    await asyncio.gather(*waiting)


async def test_work_whose_request_is_gone_is_skipped(decoders: Decoders) -> None:
    gate = threading.Event()
    ran: list[str] = []
    blocked = decoders.run(gate.wait)
    gone, stays = decoders.run(ran.append, "gone"), decoders.run(ran.append, "stays")
    gone.cancel()
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(blocked, stays)
    assert ran == ["stays"]


async def test_at_the_end_nobody_waits_for_ever() -> None:
    decoders = Decoders(1)
    gate = threading.Event()
    blocked, waiting = decoders.run(gate.wait), decoders.run(int, "1")
    await asyncio.sleep(0)
    decoders.shutdown()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.set()
    await blocked
