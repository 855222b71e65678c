"""A lane without threads and in made-up time: real queues, admission and schedule, a simulated device.

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

from service.engine.batch import BatchLimits, RowSpec
from service.engine.batcher import Batcher
from service.engine.observer import Observer
from service.engine.schedule import Schedule
from service.engine.ticket import Settlement, Ticket
from service.errors import Overloaded, RequestError
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
    """What became of the requests of one stream."""

    offered: int = 0
    refused: int = 0
    in_time: int = 0
    late: int = 0
    latencies: list[float] = field(default_factory=list)

    @property
    def late_share(self) -> float:
        """Late ones among those that were let in."""
        return self.late / max(1, self.in_time + self.late)

    def percentile(self, share: float) -> float:
        """Latency that this share of the answers stays within."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class _Request(Ticket):
    """A ticket that notes when it was settled, without an event loop's help."""

    def __init__(self, *, deadline: float, priority: int, world: _World, outcome: Outcome) -> None:
        super().__init__(deadline=deadline, priority=priority)
        self._timer.cancel()
        self._world = world
        self._outcome = outcome
        self._came = world.clock.now
        self._settled = False

    def post(self, settlements: Sequence[Settlement]) -> None:
        for item, result in settlements:
            assert isinstance(item.ticket, _Request)
            item.ticket._note(result)

    def _note(self, result: object) -> None:
        assert not self._settled, "a request is settled once"
        self._settled = True
        self._world.unsettled -= 1
        now = self._world.clock.now
        if isinstance(result, RequestError) or now > self.deadline:
            self._outcome.late += 1
            self.dropped = "expired"
            return
        self._outcome.in_time += 1
        self._outcome.latencies.append(now - self._came)


class _SimulatedLane:
    def __init__(self, schedule: Schedule[Batcher]) -> None:
        self.schedule = schedule

    def wake(self) -> None:
        pass

    def delay(self, queue: Batcher, work_seconds: float, deadline: float, now: float) -> float:
        return self.schedule.delay(queue, work_seconds, deadline, now)


class _World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.unsettled = 0
        self.numbers = 0  # no two requests are equal


def simulate(
    loads: Sequence[Load], seconds: float, *, seed: int = 0, observer: Observer | None = None
) -> list[list[Outcome]]:
    """Run the traffic of some models over one lane.

    Returns:
        For each model, the outcome of each of its streams; every request is settled once, or it fails.
    """

    async def run() -> list[list[Outcome]]:
        return _run(loads, seconds, random.Random(seed), observer or Observer())

    return asyncio.run(run())


def _run(
    loads: Sequence[Load], seconds: float, draw: random.Random, observer: Observer
) -> list[list[Outcome]]:
    world = _World()
    clock = world.clock
    begin = clock.now
    schedule: Schedule[Batcher] = Schedule()
    lane = _SimulatedLane(schedule)
    batchers, outcomes, arrivals = [], [], []
    for index, load in enumerate(loads):
        rows = {"x": RowSpec((1,), "int64")} if load.uniform else None
        batcher = Batcher(f"m{index}", "1", load.limits, rows=rows, observer=observer, clock=clock)
        for size in load.seeds:
            if size <= (load.limits.max_items if load.uniform else load.limits.max_cost or size):
                batcher.seed(size, load.curve(size))
        schedule.add(batcher, lambda arrays: arrays)
        batcher.lanes = (lane,)
        batchers.append(batcher)
        outcomes.append([Outcome() for _ in load.streams])
        for number, stream in enumerate(load.streams):
            now = begin
            while (now := now + draw.expovariate(stream.rate)) < begin + seconds:
                arrivals.append((now, index, number))
    arrivals.sort(reverse=True)
    frees_at = math.inf
    finish: Callable[[], None] = _nothing
    while arrivals or frees_at < math.inf or any(batcher.queue_items for batcher in batchers):
        if arrivals and arrivals[-1][0] <= frees_at:
            clock.now, index, number = arrivals.pop()
            _arrive(world, loads[index].streams[number], batchers[index], outcomes[index][number], draw)
        elif frees_at < math.inf:
            clock.now = frees_at
            frees_at = math.inf
            finish()
        if frees_at < math.inf:
            continue
        placement, _ = schedule.pick(clock.now)
        if placement is None:
            continue
        batch = placement.queue.claim()
        if batch is None:
            continue
        load = loads[batchers.index(placement.queue)]
        took = load.curve(batch.size) * load.noise(draw)
        schedule.began(clock.now, placement.queue.expected_seconds(batch))
        frees_at = clock.now + took

        def finish(placement=placement, batch=batch, took=took) -> None:  # type: ignore[no-untyped-def]
            schedule.ended(placement, took, clock.now)
            placement.queue.settle([(item, {}) for item in batch.items])
            placement.queue.recycle(batch, took)

    assert world.unsettled == 0, "somebody was never settled"
    return outcomes


def _nothing() -> None:
    pass


def _arrive(world: _World, stream: Stream, batcher: Batcher, outcome: Outcome, draw: random.Random) -> None:
    now = world.clock.now
    outcome.offered += 1
    ticket = _Request(
        deadline=now + stream.deadline(draw), priority=stream.priority, world=world, outcome=outcome
    )
    world.numbers += 1
    ticket.fill([{"x": np.array([world.numbers])}], [stream.cost(draw)])
    try:
        batcher.submit(ticket)
    except Overloaded:
        outcome.refused += 1
        return
    world.unsettled += 1
