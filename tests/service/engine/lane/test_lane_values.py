"""What a lane measures and reports of a batch, on a clock that only the batch moves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.engine.lane.lane import Lane
from service.engine.lane.lane_thread import LaneStopped
from service.engine.observer import BatchReport, Observer
from service.engine.queue.batch import BatchLimits
from service.engine.queue.batcher import Batcher
from service.engine.runtime.run import Staged, in_place
from service.errors import InferenceFailed, NotReady
from tests.service.engine.engine_tools import Clock, batcher_of, pending_of

Arrays = Mapping[str, NDArray[Any]]


class Calls(Observer):
    """Keep the reports of a lane. A report of a batch takes a second."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.seen: list[tuple[object, ...]] = []
        self.reports: list[BatchReport] = []

    def lane_added(self, *facts: object) -> None:
        self.seen.append(("added", *facts))

    def model_placed(self, *facts: object) -> None:
        self.seen.append(("placed", *facts))

    def lane_busy(self, *facts: object) -> None:
        self.seen.append(("busy", *facts))

    def lane_died(self, *facts: object) -> None:
        self.seen.append(("died", *facts))

    def batch_failed(self, *facts: object) -> None:
        self.seen.append(("failed", *facts))

    def batch_done(self, report: BatchReport) -> None:
        self.reports.append(report)
        self.clock.now += 1


def taking(clock: Clock, seconds: float) -> Callable[[Arrays], Arrays]:
    """A run of this many seconds that doubles."""

    def run(arrays: Arrays) -> Arrays:
        clock.now += seconds
        return {"y": arrays["x"] * 2}

    return run


def after_a_copy(clock: Clock, run: Callable[[Arrays], Arrays]) -> Callable[[Arrays], Staged]:
    """A stage function that copies for half a second."""

    def stage(arrays: Arrays) -> Staged:
        clock.now += 0.5
        return in_place(run)(arrays)

    return stage


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(("threads", "seconds"), [(1, 3.5), (2, 2.5)])
async def test_the_times_of_a_batch_are_reported_and_learned(threads: int, seconds: float) -> None:
    clock = Clock()
    observer = Calls(clock)
    batcher = batcher_of(BatchLimits(deadline_seconds=100), clock=clock)
    lane = Lane("cuda:0", observer, threads=threads, clock=clock)
    since: list[float | None] = []

    def run(arrays: Arrays) -> Arrays:
        since.append(lane.busy_since)
        return taking(clock, 2.0)(arrays)

    lane.attach(batcher, run, after_a_copy(clock, run))
    assert observer.seen == [("added", "cuda:0"), ("placed", "m", "1", "cuda:0")]
    assert (lane.busy_since, lane.gave_up, lane.restarts, lane.device) == (None, False, 0, "cuda:0")
    assert lane.last_seen == 1000
    observer.seen.clear()
    pending = pending_of(1, 2)
    batcher.submit(pending)
    clock.now += 0.25
    other = pending_of(3)
    batcher.submit(other)
    clock.now += 0.75
    lane.start()
    assert [float(row["y"][0]) for row in await asyncio.wait_for(pending.outputs(), 20)] == [2, 4]
    await until(lambda: bool(observer.seen))
    lane.stop()
    assert observer.seen == [("busy", "cuda:0", seconds)]
    (report,) = observer.reports
    assert report == BatchReport(
        model="m",
        version="1",
        device="cuda:0",
        items=3,
        padding_ratio=1.0,
        queue_seconds=(1.0, 1.0, 0.75),
        batch_seconds=0.5,
        infer_seconds=2.0,
    )
    assert (pending.queue_seconds, pending.infer_seconds, pending.batch_items) == (1.0, 2.0, 3)
    assert other.queue_seconds == 0.75
    assert (since, lane.busy_since) == ([1001.0], None)
    assert batcher._admission.table.seconds(3) == seconds
    assert lane._schedule.placements[0].used_seconds == 2.5  # from the claim to the end of the run
    assert lane._schedule.frees_at is None


async def test_nothing_is_learned_from_the_time_of_a_batch_that_failed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, error = Clock(), RuntimeError("cannot copy")
    observer = Calls(clock)
    batcher = batcher_of(observer=observer, clock=clock)
    lane = Lane("cpu", observer, clock=clock)

    def stage(arrays: Arrays) -> Staged:
        clock.now += 0.5
        raise error

    lane.attach(batcher, taking(clock, 2.0), stage)
    pending = pending_of(1)
    batcher.submit(pending)
    lane.start()
    with pytest.raises(InferenceFailed):
        await asyncio.wait_for(pending.outputs(), 20)
    await until(lambda: ("busy", "cpu", 0.5) in observer.seen)
    lane.stop()
    assert ("failed", "m", "1") in observer.seen
    assert batcher._admission.table.known == 0
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert record.getMessage() == "1 items failed on cpu for m"


async def test_a_death_before_the_run_costs_its_model_no_device_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL)
    clock = Clock()
    observer = Calls(clock)
    batcher = batcher_of(clock=clock)
    lane = Lane("cpu", observer, restart_limit=0, clock=clock)

    def stage(arrays: Arrays) -> Staged:
        raise SystemExit("killed")

    lane.attach(batcher, taking(clock, 2.0), stage)
    (placement,) = lane._schedule.placements
    pending = pending_of(1)
    batcher.submit(pending)
    lane.start()
    with pytest.raises(InferenceFailed):
        await asyncio.wait_for(pending.outputs(), 20)
    await until(lambda: batcher.closed)
    lane.stop()
    assert (lane.gave_up, lane.restarts, lane.busy_since, lane.last_seen) == (True, 1, None, float("-inf"))
    assert (placement.used_seconds, lane._schedule.frees_at) == (0.0, None)
    kind, device, death = observer.seen[-1]
    assert (kind, device, str(death)) == ("died", "cpu", "killed")
    assert (batcher.lanes, lane._schedule.placements) == ((), ())
    with pytest.raises(NotReady, match="lane cpu is gone"):
        batcher.submit(pending_of(2))


async def test_a_queue_that_another_lane_serves_stays_open_when_one_ends() -> None:
    clock = Clock()
    batcher = batcher_of(clock=clock)
    dying, other = (Lane("cpu", Observer(), restart_limit=0, clock=clock) for _ in range(2))
    for lane in (dying, other):
        lane.attach(batcher, taking(clock, 2.0))
    dying.start()

    def die() -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        await asyncio.wait_for(asyncio.wrap_future(dying.call(die)), 20)
    await until(lambda: batcher.lanes == (other,))
    assert not batcher.closed


def queue_with(clock: Clock, waiting: int) -> Batcher:
    """A queue whose items take half a second, one at a time."""
    batcher = batcher_of(BatchLimits(max_items=1, deadline_seconds=100), clock=clock)
    batcher.seed(1, 0.5)
    for value in range(waiting):
        batcher.submit(pending_of(value, deadline=clock.now + 50))
    return batcher


async def test_the_delay_of_a_lane_is_what_another_model_gets_of_it_meanwhile() -> None:
    clock = Clock()
    mine, other = queue_with(clock, 0), queue_with(clock, 1)
    lane = Lane("cpu", Observer(), clock=clock)
    for batcher in (mine, other):
        lane.attach(batcher, taking(clock, 0.5))
    sooner, later = clock.now + 49, clock.now + 51
    assert lane.delay(mine, 0.5, sooner, clock.now) == 0.5
    assert [lane.delay(mine, 0.03, deadline, clock.now) for deadline in (sooner, later)] == [0.0, 0.5]
    assert lane.delay(batcher_of(), 0.5, later, clock.now) == 0.0  # a model of another lane


async def test_a_knock_moves_the_time_at_which_an_idle_thread_was_last_seen() -> None:
    clock = Clock()
    lane = Lane("cpu", Observer(), clock=clock)
    lane.start()
    clock.now += 7
    lane.request_heartbeat()
    await until(lambda: lane.last_seen == 1007)
    lane.stop()
    assert not lane._threads[0].thread.is_alive()


def test_the_threads_of_a_lane_end_with_the_process() -> None:
    lane = Lane("cuda:1", Observer(), threads=2)
    threads = [lane_thread.thread for lane_thread in lane._threads]
    assert [(thread.name, thread.daemon) for thread in threads] == [("lane-cuda:1", True)] * 2


def test_a_job_for_each_thread_runs_once_on_each() -> None:
    lane = Lane("cpu", Observer(), threads=2)
    futures = lane.call_each(lambda: np.random.default_rng().bytes(8))
    lane.start()
    results = {future.result(20) for future in futures}
    lane.stop()
    assert len(results) == 2


@pytest.mark.parametrize(("threads", "overlapped"), [(1, False), (2, True)])
def test_batches_overlap_on_a_lane_with_two_threads(threads: int, *, overlapped: bool) -> None:
    lane = Lane("cpu", Observer(), threads=threads)
    assert (lane._turns._timing is not None) == overlapped


def test_jobs_that_a_stopped_lane_has_not_run_fail_with_the_reason() -> None:
    lane = Lane("cpu", Observer())
    waiting = lane.call(lambda: None)
    lane.stop()
    for future in (waiting, lane.call(lambda: None)):
        with pytest.raises(LaneStopped, match=r"^lane cpu takes no more work$"):
            future.result(20)


def test_jobs_that_wait_when_a_lane_dies_fail_with_the_reason() -> None:
    lane = Lane("cpu", Observer(), restart_limit=0)

    def die() -> None:
        raise SystemExit

    dying, waiting = lane.call(die), lane.call(lambda: None)
    lane.start()
    with pytest.raises(SystemExit):
        dying.result(20)
    with pytest.raises(LaneStopped, match=r"^lane cpu is gone$"):
        waiting.result(20)
    with pytest.raises(LaneStopped, match=r"^lane cpu takes no more work$"):
        lane.call(lambda: None).result(20)
