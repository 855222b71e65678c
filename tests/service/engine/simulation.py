"""Lanes without threads and in made-up time: real queues, admission and schedule, simulated devices.

Arrivals are Poisson, a batch takes what a curve says of its padded cost, times noise. What comes out is
how many requests were answered in time, late or not at all.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from service.engine.lane.schedule import Placement, Schedule
from service.engine.observer import Observer
from service.engine.queue.batch import Batch, BatchLimits, RowSpec
from service.engine.queue.batcher import Batcher
from service.engine.queue.pending_request import PendingRequest, Settlement
from service.errors import InferenceFailed, Overloaded, RequestError
from tests.service.engine.engine_tools import Clock

Curve = Callable[[float], float]
Noise = Callable[[random.Random], float]


def no_noise(draw: random.Random) -> float:
    """Every batch takes what the curve says."""
    return 1.0


def one_sided(spread: float) -> Noise:
    """A batch takes longer by the size of a normal number of this spread."""
    return lambda draw: 1 + abs(draw.gauss(0, spread))


@dataclass
class Stream:
    """Requests of one kind for one model.

    Attributes:
        rate: Requests a second.
        deadline: Draws the seconds that a request has.
        cost: Draws the cost of its item.
    """

    rate: float
    deadline: Callable[[random.Random], float]
    cost: Callable[[random.Random], int] = lambda draw: 1
    priority: int = 2


@dataclass
class Load:
    """A model on the lane and what it is asked.

    Attributes:
        curve: Seconds of a batch by its padded cost.
        uniform: Whether all items have one shape.
        seeds: Sizes that are timed before the traffic.
    """

    curve: Curve
    limits: BatchLimits
    streams: Sequence[Stream]
    uniform: bool = True
    seeds: Sequence[int] = (1, 2, 4, 8, 16, 32)
    noise: Noise = no_noise


@dataclass
class Outcome:
    """What became of the requests of one stream.

    Attributes:
        failed: Those that a lane took with it when it died.
    """

    offered: int = 0
    refused: int = 0
    in_time: int = 0
    late: int = 0
    failed: int = 0
    latencies: list[float] = field(default_factory=list)

    @property
    def late_share(self) -> float:
        """Late ones among those that were let in."""
        return self.late / max(1, self.in_time + self.late)

    def percentile(self, share: float) -> float:
        """Latency that this share of the answers stays within."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class _Request(PendingRequest):
    """A pending that notes when it was settled, without an event loop's help."""

    def __init__(self, *, deadline: float, priority: int, world: _World, outcome: Outcome) -> None:
        super().__init__(deadline=deadline, priority=priority)
        self._timer.cancel()
        self._world = world
        self._outcome = outcome
        self._came = world.clock.now
        self._settled = False

    def post(self, settlements: Sequence[Settlement]) -> None:
        for item, result in settlements:
            assert isinstance(item.pending, _Request)
            item.pending._note(result)

    def _note(self, result: object) -> None:
        assert not self._settled, "a request is settled once"
        self._settled = True
        self._world.unsettled -= 1
        now = self._world.clock.now
        if isinstance(result, InferenceFailed):
            self._outcome.failed += 1
            return
        if isinstance(result, RequestError) or now > self.deadline:
            self._outcome.late += 1
            self.dropped = "expired"
            return
        self._outcome.in_time += 1
        self._outcome.latencies.append(now - self._came)


class _SimulatedLane:
    """One device.

    Attributes:
        frees_at: When the running batch ends; infinite without one.
    """

    def __init__(self, clock: Clock, draw: random.Random) -> None:
        self.schedule: Schedule[Batcher] = Schedule()
        self.frees_at = math.inf
        self._clock = clock
        self._draw = draw
        self._running: tuple[Placement[Batcher], Batch, float] | None = None

    def wake(self) -> None:
        pass

    def delay(self, queue: Batcher, work_seconds: float, deadline: float, now: float) -> float:
        return self.schedule.delay(queue, work_seconds, deadline, now)

    def begin(self, loads: Sequence[Load], batchers: Sequence[Batcher]) -> None:
        """Claim a batch if the lane is free."""
        now = self._clock.now
        placement = self.schedule.pick(now)[0] if self._running is None else None
        batch = placement.queue.claim() if placement is not None else None
        if placement is None or batch is None:
            return
        load = loads[batchers.index(placement.queue)]
        took = load.curve(batch.size) * load.noise(self._draw)
        self.schedule.began(now, placement.queue.expected_seconds(batch))
        self.frees_at = now + took
        self._running = placement, batch, took

    def finish(self) -> None:
        """Settle the batch that is over."""
        assert self._running is not None, "a lane that runs nothing has nothing to finish"
        placement, batch, took = self._running
        self.frees_at, self._running = math.inf, None
        self.schedule.ended(placement, took, self._clock.now)
        placement.queue.settle([(item, {}) for item in batch.items])
        placement.queue.recycle(batch, took)

    def die(self, batchers: Sequence[Batcher]) -> None:
        """Fail what runs, and serve nobody any more."""
        for batcher in batchers:
            self.schedule.remove(batcher)
            batcher.lanes = tuple(lane for lane in batcher.lanes if lane is not self)
        if self._running is not None:
            placement, batch, _ = self._running
            placement.queue.settle([(item, InferenceFailed("the lane died")) for item in batch.items])
        self.frees_at = math.inf


class _World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.unsettled = 0
        self.numbers = 0  # no two requests are equal


def simulate(
    loads: Sequence[Load],
    seconds: float,
    *,
    seed: int = 0,
    observer: Observer | None = None,
    lanes: int = 1,
    deaths: Sequence[float] = (),
) -> list[list[Outcome]]:
    """Run the traffic of some models over some lanes.

    Args:
        deaths: After so many seconds one lane dies for good; fewer than there are lanes.

    Returns:
        For each model, the outcome of each of its streams; every request is settled once, or it fails.
    """

    async def run() -> list[list[Outcome]]:
        draw = random.Random(seed)
        return _run(loads, seconds, draw, observer or Observer(), lane_count=lanes, deaths=deaths)

    return asyncio.run(run())


def _run(
    loads: Sequence[Load],
    seconds: float,
    draw: random.Random,
    observer: Observer,
    *,
    lane_count: int,
    deaths: Sequence[float],
) -> list[list[Outcome]]:
    world = _World()
    clock = world.clock
    begin = clock.now
    lanes = [_SimulatedLane(clock, draw) for _ in range(lane_count)]
    batchers, outcomes, arrivals = [], [], []
    for index, load in enumerate(loads):
        batchers.append(_batcher_of(load, f"m{index}", lanes, observer, clock))
        outcomes.append([Outcome() for _ in load.streams])
        for number, stream in enumerate(load.streams):
            now = begin
            while (now := now + draw.expovariate(stream.rate)) < begin + seconds:
                arrivals.append((now, index, number))
    arrivals.sort(reverse=True)
    dies_at = [begin + moment for moment in sorted(deaths, reverse=True)]
    while True:
        next_lane = min(lanes, key=lambda lane: lane.frees_at)
        next_arrival = arrivals[-1][0] if arrivals else math.inf
        clock.now = min(next_arrival, next_lane.frees_at, dies_at[-1] if dies_at else math.inf)
        if clock.now == math.inf:
            break
        if dies_at and clock.now == dies_at[-1]:
            dies_at.pop()
            lanes.pop().die(batchers)
        elif clock.now == next_arrival:
            _, index, number = arrivals.pop()
            _arrive(world, loads[index].streams[number], batchers[index], outcomes[index][number], draw)
        else:
            next_lane.finish()
        for lane in lanes:
            lane.begin(loads, batchers)
    assert world.unsettled == 0, "somebody was never settled"
    return outcomes


def _batcher_of(
    load: Load, name: str, lanes: Sequence[_SimulatedLane], observer: Observer, clock: Clock
) -> Batcher:
    rows = {"x": RowSpec((1,), "int64")} if load.uniform else None
    batcher = Batcher(name, "1", load.limits, rows=rows, observer=observer, clock=clock)
    for size in load.seeds:
        if size <= (load.limits.max_items if load.uniform else load.limits.max_cost or size):
            batcher.seed(size, load.curve(size))
    for lane in lanes:
        lane.schedule.add(batcher, lambda arrays: arrays)
    batcher.lanes = tuple(lanes)
    return batcher


def _arrive(world: _World, stream: Stream, batcher: Batcher, outcome: Outcome, draw: random.Random) -> None:
    now = world.clock.now
    outcome.offered += 1
    pending = _Request(
        deadline=now + stream.deadline(draw), priority=stream.priority, world=world, outcome=outcome
    )
    world.numbers += 1
    pending.fill([{"x": np.array([world.numbers])}], [stream.cost(draw)])
    try:
        batcher.submit(pending)
    except Overloaded:
        outcome.refused += 1
        return
    world.unsettled += 1
