from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.engine.lane.lane import Lane
from service.engine.lane.lane_thread import LaneStopped
from service.engine.observer import Observer
from service.engine.queue.batch import BatchLimits
from service.engine.queue.pending_request import PendingRequest
from service.errors import InferenceFailed, NotReady
from tests.service.engine.engine_tools import Double, Recorder, batcher_of, lane_of, pending_of


@contextmanager
def running(lane: Lane) -> Iterator[Lane]:
    try:
        yield lane
    finally:
        lane.stop()


async def answer(pending: PendingRequest) -> list[float]:
    outputs = await asyncio.wait_for(pending.outputs(), 20)
    return [float(row["y"][0]) for row in outputs]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def raise_at(value: float, error: Exception) -> Callable[[NDArray[Any]], None]:
    def fail(x: NDArray[Any]) -> None:
        if value in x[:, 0]:
            raise error

    return fail


async def test_each_request_gets_its_own_answer() -> None:
    batcher, run = batcher_of(), Double()
    with running(lane_of(batcher, run)):
        pending_requests = [pending_of(value, value + 0.5) for value in range(50)]
        for pending in pending_requests:
            batcher.submit(pending)
        for value, pending in enumerate(pending_requests):
            assert await answer(pending) == [value * 2, value * 2 + 1]


async def test_a_free_lane_starts_at_once_and_what_comes_meanwhile_shares_the_next_run() -> None:
    batcher, run = batcher_of(BatchLimits(max_items=8)), Double()
    run.gate.clear()
    with running(lane_of(batcher, run)):
        pending_requests = [pending_of(1)]
        batcher.submit(pending_requests[0])
        await asyncio.to_thread(run.started.acquire)
        for value in range(2, 7):
            pending_requests.append(pending_of(value))
            batcher.submit(pending_requests[-1])
        run.gate.set()
        assert [await answer(pending) for pending in pending_requests] == [[2], [4], [6], [8], [10], [12]]
    assert run.sizes == [1, 5]


async def test_a_delayed_batch_starts_when_its_time_has_come() -> None:
    batcher, run = batcher_of(BatchLimits(max_items=8, max_delay_seconds=0.05)), Double()
    with running(lane_of(batcher, run)):
        first, second = pending_of(1), pending_of(2)
        batcher.submit(first)
        batcher.submit(second)
        assert await answer(first) == [2]
        assert await answer(second) == [4]
    assert run.sizes == [2]


async def test_a_failing_batch_is_halved_until_the_culprit_stands_alone() -> None:
    observer = Recorder()
    batcher, run = batcher_of(BatchLimits(max_items=16), observer=observer), Double()
    run.gate.clear()
    run.fail = raise_at(5, RuntimeError("bad item"))
    with running(lane_of(batcher, run, observer=observer)) as lane:
        hold = pending_of(100)
        batcher.submit(hold)
        await asyncio.to_thread(run.started.acquire)
        pending_requests = [pending_of(value) for value in range(8)]
        for pending in pending_requests:
            batcher.submit(pending)
        run.gate.set()
        for value, pending in enumerate(pending_requests):
            if value == 5:
                with pytest.raises(InferenceFailed):
                    await answer(pending)
            else:
                assert await answer(pending) == [value * 2]
        assert lane.restarts == 0
    assert run.sizes == [1, 8, 4, 4, 2, 1, 1, 2]
    assert observer.failures == 4  # 8, 4, 2 and the culprit alone


async def test_a_wrong_number_of_outputs_fails_the_batch_without_more_runs() -> None:
    batcher = batcher_of()
    runs: list[int] = []

    def run(inputs: Any) -> dict[str, NDArray[Any]]:
        runs.append(len(inputs["x"]))
        return {"y": np.zeros((len(inputs["x"]) + 1, 2))}

    lane = Lane("cpu", Observer())
    lane.attach(batcher, run)
    lane.start()
    with running(lane):
        pending = pending_of(1, 2, 3)
        batcher.submit(pending)
        with pytest.raises(InferenceFailed):
            await answer(pending)
    assert runs == [3]


async def test_an_answer_that_is_not_finite_is_an_error_for_its_own_request_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    observer = Recorder()
    batcher, run = batcher_of(BatchLimits(max_items=8), observer=observer), Double()
    run.gate.clear()
    with running(lane_of(batcher, run, observer=observer)):
        hold, bad, good = pending_of(1), pending_of(float("nan")), pending_of(3)
        batcher.submit(hold)
        await asyncio.to_thread(run.started.acquire)
        batcher.submit(bad)
        batcher.submit(good)
        run.gate.set()
        with pytest.raises(InferenceFailed):
            await answer(bad)
        assert await answer(good) == [6]
    assert observer.failures == 1
    assert "NaN" in caplog.text
    assert [vars(record)["request_ids"] for record in caplog.records] == [[""]]


async def test_a_dead_lane_fails_what_it_ran_at_once_restarts_and_goes_on() -> None:
    observer = Recorder()
    batcher, run = batcher_of(BatchLimits(max_items=1), observer=observer), Double()
    run.gate.clear()

    def die_on_first(x: NDArray[Any]) -> None:
        if x[0, 0] == 1:
            raise SystemExit("killed")

    run.fail = die_on_first
    with running(lane_of(batcher, run, observer=observer)) as lane:
        doomed, waiting = pending_of(1), pending_of(2)
        batcher.submit(doomed)
        batcher.submit(waiting)
        run.gate.set()
        with pytest.raises(InferenceFailed):
            await answer(doomed)
        assert await answer(waiting) == [4]
        await until(lambda: lane.restarts == 0)
        assert not lane.gave_up
    assert len(observer.deaths) == 1


async def test_a_dead_lane_looks_silent_until_its_successor_shows_itself() -> None:
    lane = Lane("cpu", Observer())
    lane.start()
    with running(lane):
        gate = threading.Event()

        def die() -> None:
            raise SystemExit

        future = lane.call(die)
        with pytest.raises(SystemExit):
            await asyncio.wrap_future(future)
        gate.set()
        await until(lambda: time.monotonic() - lane.last_seen < 5)
        assert await asyncio.wrap_future(lane.call(lambda: 7)) == 7


async def test_a_lane_that_keeps_dying_gives_up_and_fails_its_queues() -> None:
    batcher, run = batcher_of(BatchLimits(max_items=1)), Double()

    def die(x: NDArray[Any]) -> None:
        raise SystemExit

    run.fail = die
    lane = lane_of(batcher, run, restart_limit=1)
    with running(lane):
        pending_requests = [pending_of(value) for value in range(4)]
        for pending in pending_requests:
            with pytest.raises((InferenceFailed, NotReady)):
                batcher.submit(pending)
                await answer(pending)
        await until(lambda: lane.gave_up)
        with pytest.raises(NotReady):
            batcher.submit(pending_of(9))
        with pytest.raises(LaneStopped):
            lane.call(lambda: None).result()


async def test_a_thread_that_keeps_dying_comes_back_later_and_later(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    batcher, run = batcher_of(BatchLimits(max_items=1)), Double()

    def die(x: NDArray[Any]) -> None:
        raise SystemExit

    run.fail = die
    lane = lane_of(batcher, run, restart_limit=4)
    with running(lane):
        for value in range(5):
            pending = pending_of(value)
            batcher.submit(pending)
            with pytest.raises(InferenceFailed):
                await answer(pending)
        await until(lambda: lane.gave_up)
    assert pauses == [0.05, 0.1, 0.2]


async def test_jobs_run_between_batches_and_give_their_result_or_error() -> None:
    lane = Lane("cpu", Observer())
    lane.start()
    with running(lane):
        assert lane.call(lambda: threading.current_thread().name).result(20) == "lane-cpu"
        with pytest.raises(ZeroDivisionError):
            lane.call(lambda: 1 // 0).result(20)


async def test_a_stopped_lane_refuses_jobs() -> None:
    lane = Lane("cpu", Observer())
    lane.start()
    lane.stop()
    with pytest.raises(LaneStopped):
        lane.call(lambda: None).result(20)


async def test_two_busy_models_share_the_lane_evenly_by_time() -> None:
    slow_batcher, quick_batcher = (batcher_of(BatchLimits(max_items=1)) for _ in range(2))
    order: list[str] = []

    def run_of(name: str, seconds: float) -> Callable[[Any], dict[str, NDArray[Any]]]:
        def run(inputs: Any) -> dict[str, NDArray[Any]]:
            order.append(name)
            time.sleep(seconds)  # stands for a graph that takes this long
            return {"y": inputs["x"]}

        return run

    lane = Lane("cpu", Observer())
    lane.attach(slow_batcher, run_of("slow", 0.06))
    lane.attach(quick_batcher, run_of("quick", 0.002))
    slow, quick = pending_of(*range(4)), pending_of(*range(60))
    slow_batcher.submit(slow)
    quick_batcher.submit(quick)
    lane.start()
    with running(lane):
        await answer(slow)
        await answer(quick)
    after_two_slow = [i for i, name in enumerate(order) if name == "slow"][2]
    assert order[:after_two_slow].count("quick") >= 15


async def test_among_models_of_equal_share_the_most_pressed_goes_first() -> None:
    calm_batcher, pressed_batcher = batcher_of(), batcher_of()
    order: list[str] = []

    def run_of(name: str) -> Callable[[Any], dict[str, NDArray[Any]]]:
        def run(inputs: Any) -> dict[str, NDArray[Any]]:
            order.append(name)
            return {"y": inputs["x"]}

        return run

    lane = Lane("cpu", Observer())
    lane.attach(calm_batcher, run_of("calm"))
    lane.attach(pressed_batcher, run_of("pressed"))
    calm, pressed = pending_of(1, deadline=9e12), pending_of(1, deadline=8e12)
    calm_batcher.submit(calm)
    pressed_batcher.submit(pressed)
    lane.start()
    with running(lane):
        await answer(calm)
        await answer(pressed)
    assert order == ["pressed", "calm"]


async def test_a_detached_model_runs_no_more() -> None:
    batcher, run = batcher_of(), Double()
    with running(lane_of(batcher, run)) as lane:
        lane.detach(batcher)
        batcher.submit(pending_of(1))
        lane.call(lambda: None).result(20)
    assert run.sizes == []
