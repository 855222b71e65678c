"""A lane with two threads: one batch runs, the next is claimed late and staged, and nothing else changes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.engine.lane.lane import Lane
from service.engine.lane.lane_thread import LaneStopped
from service.engine.lane.schedule import Schedule
from service.engine.observer import Observer
from service.engine.queue.batch import BatchLimits
from service.engine.queue.batcher import Batcher
from service.engine.queue.pending_request import PendingRequest
from service.errors import InferenceFailed, NotReady
from tests.service.engine.engine_tools import Recorder, batcher_of, pending_of

Arrays = Mapping[str, NDArray[Any]]


class Device:
    """A device that doubles, whose copies and runs can be held shut, and that notices two runs at once.

    Attributes:
        sizes: Items of every run.
        staged: Items of every batch that was copied to it.
        fail: Called with the inputs of every run; what it raises, the run raises.
        fail_copy: The same for copies.
    """

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.staged: list[int] = []
        self.began = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()
        self.fail: Callable[[NDArray[Any]], None] = lambda x: None
        self.fail_copy: Callable[[NDArray[Any]], None] = lambda x: None
        self._busy = threading.Lock()

    def run(self, arrays: Arrays) -> Arrays:
        assert self._busy.acquire(blocking=False), "two batches run at once"
        try:
            x = arrays["x"]
            self.sizes.append(len(x))
            self.began.release()
            assert self.gate.wait(20), "the test forgot to open the gate"
            self.fail(x)
            return {"y": x * 2}
        finally:
            self._busy.release()

    def stage(self, arrays: Arrays) -> _Staged:
        x = np.copy(arrays["x"])
        self.fail_copy(x)
        self.staged.append(len(x))
        return _Staged(self, {"x": x})


class _Staged:
    def __init__(self, device: Device, arrays: Arrays) -> None:
        self._device = device
        self._arrays = arrays
        self._outputs: Arrays = {}

    def run(self) -> None:
        self._outputs = self._device.run(self._arrays)

    def outputs(self) -> Arrays:
        return self._outputs


@contextmanager
def serving(batcher: Batcher, device: Device, **lane_options: Any) -> Iterator[Lane]:
    options = {"observer": Observer(), **lane_options}
    lane = Lane("cuda:0", threads=2, **options)
    lane.attach(batcher, device.run, device.stage)
    lane.start()
    try:
        yield lane
    finally:
        device.gate.set()
        lane.stop()


async def answer(pending: PendingRequest) -> list[float]:
    outputs = await asyncio.wait_for(pending.outputs(), 20)
    return [float(row["y"][0]) for row in outputs]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def at(value: float, error: BaseException) -> Callable[[NDArray[Any]], None]:
    def fail(x: NDArray[Any]) -> None:
        if value in x[:, 0]:
            raise error

    return fail


async def running(device: Device) -> None:
    await asyncio.to_thread(device.began.acquire)


async def test_the_next_batch_is_copied_while_one_runs_and_no_third_is_claimed() -> None:
    batcher, device = batcher_of(BatchLimits(max_items=1)), Device()
    device.gate.clear()
    with serving(batcher, device):
        pending_requests = [pending_of(value) for value in range(4)]
        for pending in pending_requests:
            batcher.submit(pending)
        await running(device)
        await until(lambda: len(device.staged) == 2)
        assert (device.sizes, batcher.queue_items) == ([1], 2)
        device.gate.set()
        assert [await answer(pending) for pending in pending_requests] == [[0], [2], [4], [6]]
    assert device.sizes == [1] * 4


async def test_a_batch_that_is_expected_to_run_long_keeps_the_next_one_open() -> None:
    batcher, device = batcher_of(BatchLimits(max_items=8, deadline_seconds=1e6)), Device()
    for size in (1, 8):
        batcher.seed(size, 100.0)
    device.gate.clear()
    with serving(batcher, device) as lane:
        pending_requests = [pending_of(0)]
        batcher.submit(pending_requests[0])
        await running(device)
        for value in range(1, 7):
            pending_requests.append(pending_of(value))
            batcher.submit(pending_requests[-1])
            await asyncio.sleep(0.002)  # time in which a thread that claims too early would have claimed it
        assert (device.staged, batcher.queue_items) == ([1], 6)
        assert lane.delay(batcher, 0.0, 1e12, asyncio.get_running_loop().time()) == pytest.approx(100, abs=10)
        device.gate.set()
        assert [await answer(pending) for pending in pending_requests] == [[2 * value] for value in range(7)]
    assert device.sizes == [1, 6]


async def test_under_load_each_request_gets_its_own_answer_and_runs_never_overlap() -> None:
    batcher, device = batcher_of(BatchLimits(max_items=7, max_queue_items=10_000)), Device()
    with serving(batcher, device):
        pending_requests = [pending_of(value, value + 0.5) for value in range(1000)]
        for pending in pending_requests:
            batcher.submit(pending)
        for value, pending in enumerate(pending_requests):
            assert await answer(pending) == [value * 2, value * 2 + 1]
    assert sum(device.sizes) == sum(device.staged) == 2000


@pytest.mark.parametrize("where", ["fail", "fail_copy"])
async def test_a_bad_item_hurts_only_its_own_request(where: str) -> None:
    batcher, device = batcher_of(BatchLimits(max_items=16)), Device()
    setattr(device, where, at(5, RuntimeError("bad item")))
    if where == "fail_copy":
        device.fail = device.fail_copy  # an item that cannot be copied cannot be run again either
    device.gate.clear()
    with serving(batcher, device) as lane:
        pending_requests = [pending_of(value) for value in range(30)]
        for pending in pending_requests:
            batcher.submit(pending)
        device.gate.set()
        for value, pending in enumerate(pending_requests):
            if value == 5:
                with pytest.raises(InferenceFailed):
                    await answer(pending)
            else:
                assert await answer(pending) == [2 * value]
        assert lane.restarts == 0
        assert lane.delay(batcher, 0.0, 1e12, asyncio.get_running_loop().time()) == 0.0


async def test_a_thread_that_dies_fails_its_batch_and_both_go_on() -> None:
    observer = Recorder()
    batcher, device = batcher_of(BatchLimits(max_items=1), observer=observer), Device()
    device.fail = at(1, SystemExit("killed"))
    device.gate.clear()
    with serving(batcher, device, observer=observer) as lane:
        pending_requests = [pending_of(value) for value in range(6)]
        for pending in pending_requests:
            batcher.submit(pending)
        device.gate.set()
        for value, pending in enumerate(pending_requests):
            if value == 1:
                with pytest.raises(InferenceFailed):
                    await answer(pending)
            else:
                assert await answer(pending) == [2 * value]
        names = {future.result(20) for future in lane.call_each(threading.get_ident)}
        assert len(names) == 2
        assert not lane.gave_up
    assert len(observer.deaths) == 1


async def test_a_thread_that_dies_while_it_stages_blocks_nobody() -> None:
    batcher, device = batcher_of(BatchLimits(max_items=1)), Device()
    device.fail_copy = at(1, SystemExit("killed"))
    with serving(batcher, device) as lane:
        pending_requests = [pending_of(value) for value in range(4)]
        for pending in pending_requests:
            batcher.submit(pending)
        with pytest.raises(InferenceFailed):
            await answer(pending_requests[1])
        assert [await answer(pending) for pending in (pending_requests[0], *pending_requests[2:])] == [
            [0],
            [4],
            [6],
        ]
        assert lane.delay(batcher, 0.0, 1e12, asyncio.get_running_loop().time()) == 0.0


async def test_threads_that_keep_dying_end_the_lane_and_fail_its_queues() -> None:
    batcher, device = batcher_of(BatchLimits(max_items=1)), Device()

    def die(x: NDArray[Any]) -> None:
        raise SystemExit

    device.fail = die
    with serving(batcher, device, restart_limit=1) as lane:
        for value in range(6):
            with pytest.raises((InferenceFailed, NotReady)):
                pending = pending_of(value)
                batcher.submit(pending)
                await answer(pending)
        await until(lambda: lane.gave_up)
        with pytest.raises(LaneStopped):
            lane.call(lambda: None).result(20)


async def test_a_stopping_lane_finishes_what_runs_and_what_is_staged() -> None:
    batcher, device = batcher_of(BatchLimits(max_items=1)), Device()
    device.gate.clear()
    with serving(batcher, device) as lane:
        pending_requests = [pending_of(value) for value in range(3)]
        for pending in pending_requests:
            batcher.submit(pending)
        await running(device)
        await until(lambda: len(device.staged) == 2)
        stopping = asyncio.get_running_loop().run_in_executor(None, lane.stop)
        await until(lambda: lane._stopping)
        device.gate.set()
        assert [await answer(pending) for pending in pending_requests[:2]] == [[0], [2]]
        await stopping
        assert batcher.queue_items == 1


async def test_a_job_waits_until_no_batch_is_on_the_device() -> None:
    batcher, device = batcher_of(BatchLimits(max_items=1)), Device()
    device.gate.clear()
    with serving(batcher, device) as lane:
        pending = pending_of(3)
        batcher.submit(pending)
        await running(device)
        job = lane.call(lambda: device.run({"x": np.ones((1, 2))})["y"])
        await asyncio.sleep(0.01)
        assert not job.done()
        device.gate.set()
        assert await answer(pending) == [6]
        assert job.result(20).tolist() == [[2, 2]]


async def test_the_lane_is_busy_since_its_oldest_batch_was_claimed() -> None:
    batcher, device = batcher_of(BatchLimits(max_items=1)), Device()
    device.gate.clear()
    with serving(batcher, device) as lane:
        pending_requests = [pending_of(value) for value in range(2)]
        batcher.submit(pending_requests[0])
        await running(device)
        since = lane.busy_since
        batcher.submit(pending_requests[1])
        await until(lambda: len(device.staged) == 2)
        assert since is not None and lane.busy_since == since
        device.gate.set()
        assert [await answer(pending) for pending in pending_requests] == [[0], [2]]
        await until(lambda: lane.busy_since is None)


def test_what_is_staged_adds_to_the_time_until_the_lane_is_free() -> None:
    schedule: Schedule[Batcher] = Schedule()
    batcher = batcher_of()
    schedule.add(batcher, lambda arrays: arrays)
    (placement,) = schedule.placements
    schedule.began(10.0, 4.0)
    schedule.began(12.0, 3.0)
    assert schedule.delay(batcher, 0.0, 1e12, 13.0) == 4.0
    schedule.ended(placement, 5.0, 15.0)
    assert schedule.delay(batcher, 0.0, 1e12, 15.0) == 3.0
    schedule.ended(placement, 3.0, 18.0)
    assert schedule.delay(batcher, 0.0, 1e12, 18.0) == 0.0
    assert placement.used_seconds == 8.0
