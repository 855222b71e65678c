"""What the decoding threads are expected to need, by known values: a clock that only the work moves."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from service.errors import DeadlineExceeded, Overloaded
from service.inference.decoding_pool import DecodingPool, before


class Bench:
    """A pool whose work takes as long as it says, and the seconds that it was busy."""

    def __init__(self, count: int) -> None:
        self.now = 0.0
        self.busy: list[float] = []
        self.pool = DecodingPool(count, self.busy.append)

    def work(self, seconds: float) -> None:
        self.now += seconds

    def fail(self, seconds: float) -> None:
        self.now += seconds
        raise ValueError("bad")

    async def learn(self, seconds: float, *, kind: str = "m", items: int = 1) -> None:
        await self.pool.run(self.work, seconds, kind=kind, items=items)

    def late(self, left_seconds: float, *, model: str = "m", priority: int = 2, items: int = 1) -> float:
        """Return by how much such a request would be late; 0 where it is not refused."""
        try:
            self.pool.check(model, priority, items, left_seconds)
        except Overloaded as refused:
            assert refused.reason == "decoding" and refused.retry_after_seconds is not None
            return refused.retry_after_seconds
        return 0.0

    @asynccontextmanager
    async def waiting(
        self, *kinds: str, blocked: int = 1, priority: int = 2, items: int = 1
    ) -> AsyncIterator[None]:
        """For the length of a block, keep threads from their work, and let such items wait for one."""
        gate = threading.Event()
        jobs: list[asyncio.Future[object]] = [self.pool.run(gate.wait, 30) for _ in range(blocked)]
        for kind in kinds:
            jobs.append(self.pool.run(self.work, 0.0, kind=kind, priority=priority, items=items))
        try:
            yield
        finally:
            gate.set()
            await asyncio.gather(*jobs)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench(1)
    clock = SimpleNamespace(perf_counter=lambda: bench.now, monotonic=time.monotonic)
    monkeypatch.setattr("service.inference.decoding_pool.time", clock)
    return bench


async def test_a_request_waits_for_those_before_it_and_for_itself(bench: Bench) -> None:
    await bench.learn(0.5)
    async with bench.waiting("m"):
        assert bench.late(1.0) == pytest.approx(1.2 * (0.5 + 0.5) - 1.0)
        assert bench.late(1.2) == 0.0
        assert bench.late(1.0, items=3) == pytest.approx(1.2 * (0.5 + 1.5) - 1.0)
        assert bench.late(1.0, model="unknown") == 0.0


async def test_several_threads_share_the_work_but_not_one_item(bench: Bench) -> None:
    bench.pool = DecodingPool(2)
    await bench.learn(0.5)
    async with bench.waiting("m", blocked=2):
        assert bench.late(0.5) == pytest.approx(1.2 * (0.25 + 0.5) - 0.5)
        assert bench.late(0.5, items=3) == pytest.approx(1.2 * (0.25 + 0.75) - 0.5)


async def test_a_free_thread_refuses_nobody(bench: Bench) -> None:
    await bench.learn(0.5)
    bench.pool = DecodingPool(2)
    await bench.learn(0.5)
    async with bench.waiting(blocked=1):
        assert bench.late(0.0) == 0.0


async def test_the_time_of_an_item_is_learnt_from_what_went_well(bench: Bench) -> None:
    await bench.learn(2.0, items=4)  # 0.5 each
    await bench.learn(1.5)
    with pytest.raises(ValueError, match="bad"):
        await bench.pool.run(bench.fail, 9.0, kind="m")
    each = 0.5 + 0.2 * (1.5 - 0.5)
    async with bench.waiting("m", items=2):
        assert bench.late(1.0) == pytest.approx(1.2 * (2 * each + each) - 1.0)
    assert bench.busy[:3] == [2.0, 1.5, 9.0]


async def test_other_work_counts_for_nothing(bench: Bench) -> None:
    await bench.learn(0.5)
    await bench.learn(9.0, kind="")
    async with bench.waiting("", ""):
        assert bench.late(0.1) == 0.0


async def test_what_is_as_urgent_stands_before_a_request(bench: Bench) -> None:
    await bench.learn(0.5)
    async with bench.waiting("m", "m", priority=3):
        assert bench.late(0.1, priority=2) == 0.0
        assert bench.late(0.1, priority=3) == pytest.approx(1.2 * 1.5 - 0.1)
        assert bench.late(0.1, priority=4) == pytest.approx(1.2 * 1.5 - 0.1)


async def test_two_batches_must_fit_after_decoding(bench: Bench) -> None:
    await bench.learn(0.5)
    bench.pool.note_run("m", 1.0)
    bench.pool.note_run("m", 2.0)
    async with bench.waiting("m"):
        assert bench.late(3.0) == pytest.approx(1.2 * 1.0 + 2 * 1.2 - 3.0)


async def test_rounding_leaves_no_work_behind(bench: Bench) -> None:
    await bench.learn(0.1, kind="a")
    await bench.learn(0.2, kind="b")
    async with bench.waiting("a", "b"):
        pass
    async with bench.waiting():
        assert bench.late(0.01, model="a") == 0.0


async def test_the_items_of_a_model_are_counted_until_they_are_decoded_or_unwanted(bench: Bench) -> None:
    async with bench.waiting("m", "m", "n", items=3):
        gone = bench.pool.run(bench.work, 1.0, kind="m")
        assert (bench.pool.items("m"), bench.pool.items("n"), bench.pool.items("other")) == (7, 3, 0)
        gone.cancel()
    await bench.pool.run(bench.work, 0.0)
    assert (bench.pool.items("m"), bench.pool.items("n")) == (0, 0)


async def test_the_threads_have_a_name_that_tells_what_they_do(bench: Bench) -> None:
    thread = await bench.pool.run(threading.current_thread)
    assert thread.name.startswith("decode")


async def test_a_result_that_is_there_is_returned_whatever_the_time() -> None:
    result: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    result.set_result(7)
    assert await before(time.monotonic() - 9, result, "late") == 7


async def test_a_result_that_is_not_there_in_time_is_not_waited_for() -> None:
    result: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    with pytest.raises(DeadlineExceeded, match="too late"):
        await before(time.monotonic() + 0.05, result, "too late")
    assert result.cancelled()
