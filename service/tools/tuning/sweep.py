"""Measures settings: sessions run batches as lanes do, in turn and in a new order each round.

A round opens the sessions of one placement (lanes and threads), runs every batch size for a moment, and
closes them, so memory stays that of one placement. What is kept of a setting is the median over the
rounds.
"""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.engine.queue.batch import stack
from service.tools.tuning.items import Sample

Arrays = Mapping[str, NDArray[Any]]
_MAX_PADDING_RATIO = 1.25  # as in engine.batch
_LONG_SHARE = 0.9  # a batch's time is this quantile: longer items make longer batches


class Runner(Protocol):
    """What a lane runs; `engine.session.Session` is one."""

    def run(self, inputs: Arrays) -> Arrays:
        """Run a batch."""


@dataclass(frozen=True, slots=True, order=True)
class SweepSetting:
    """So many sessions at once, each with so many threads."""

    lanes: int
    threads: int


@dataclass(frozen=True, slots=True, order=True)
class Setting:
    """One way to run a model."""

    placement: SweepSetting
    max_items: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What a setting does, medians over the rounds.

    Attributes:
        items_per_second: With every lane busy.
        batch_seconds: Of a long batch.
        cpu_share: CPU time of the process over the lanes' own: well below 1 on a CPU, something else ran too.
    """

    setting: Setting
    items_per_second: float
    batch_seconds: float
    cpu_share: float = 1.0

    @property
    def answer_seconds(self) -> float:
        """How long a newcomer may wait on a busy host: one batch that runs, and its own."""
        return 2 * self.batch_seconds


def placements(cpus: int) -> list[SweepSetting]:
    """List what to try: one lane, or as many as fill the CPUs, with 1, 2, 4, … threads and with all CPUs."""
    threads = sorted({2**power for power in range(cpus.bit_length()) if 2**power <= cpus} | {cpus})
    return sorted({SweepSetting(lanes, count) for count in threads for lanes in (1, cpus // count)})


def sizes(most: int) -> list[int]:
    """List batch sizes to try: 1, 2, 4, … and the most."""
    return sorted({2**power for power in range(most.bit_length()) if 2**power <= most} | {most})


def sweep(
    chosen: Sequence[Setting],
    items: Sequence[Sample],
    open_runner: Callable[[SweepSetting, int], Runner],
    *,
    seconds: float,
    rounds: int,
    max_cost: int | None = None,
    tick: Callable[[], None] = lambda: None,
) -> list[Measured]:
    """Measure settings.

    Args:
        chosen: The settings.
        items: What to run, sorted by cost.
        open_runner: Opens the session of one lane of a placement.
        seconds: For all of it, about: each reading takes its share, but at least one batch a lane.
        rounds: How often each setting is measured.
        max_cost: Largest padded cost of a batch.
        tick: Called after each reading.
    """
    drawn = random.Random(0)
    readings: dict[Setting, list[tuple[float, float, float]]] = {setting: [] for setting in chosen}
    share = seconds / max(1, rounds * len(chosen))
    for _ in range(rounds):
        for placement, group in _by_placement(chosen, drawn):
            runners = [open_runner(placement, lane) for lane in range(placement.lanes)]
            for setting in group:
                batches = make_batches(items, setting.max_items, max_cost)
                readings[setting].append(_read(runners, batches, share, drawn.random()))
                tick()
    return [
        Measured(setting, *(statistics.median(column) for column in zip(*found, strict=True)))
        for setting, found in readings.items()
    ]


def make_batches(items: Sequence[Sample], max_items: int, max_cost: int | None) -> list[list[Sample]]:
    """Group items, sorted by cost, as the queue does: by count, padded cost and how much of it is padding."""
    batches: list[list[Sample]] = []
    real = 0
    for sample in items:
        count = len(batches[-1]) + 1 if batches else 1
        padded = count * sample.cost
        fits = count <= max_items and (max_cost is None or padded <= max_cost)
        if not batches or not fits or padded > _MAX_PADDING_RATIO * (real + sample.cost):
            batches.append([])
            real = 0
        batches[-1].append(sample)
        real += sample.cost
    return batches


def _by_placement(
    chosen: Sequence[Setting], drawn: random.Random
) -> Iterator[tuple[SweepSetting, list[Setting]]]:
    """Give the settings of one placement after the other, all in random order."""
    different = sorted({setting.placement for setting in chosen})
    drawn.shuffle(different)
    for placement in different:
        group = [setting for setting in chosen if setting.placement == placement]
        drawn.shuffle(group)
        yield placement, group


def _read(
    runners: Sequence[Runner], batches: Sequence[Sequence[Sample]], seconds: float, seed: float
) -> tuple[float, float, float]:
    """Run batches in all lanes at once.

    Returns:
        Items a second over all lanes, the time of a long batch, and the share of CPU time.
    """
    stacked = [(stack([sample.inputs for sample in batch]), len(batch)) for batch in batches]
    for runner in runners:  # memory for the largest, before the clock runs
        runner.run(stacked[-1][0])
    done: list[list[tuple[int, float]]] = [[] for _ in runners]
    failed: list[BaseException] = []

    def work(lane: int) -> None:
        order = random.Random(f"{seed} {lane}").sample(stacked, len(stacked))
        last = began = time.perf_counter()
        number = 0
        try:
            while number == 0 or last - began < seconds:
                arrays, count = order[number % len(order)]
                runners[lane].run(arrays)
                now = time.perf_counter()
                done[lane].append((count, now - last))
                last = now
                number += 1
        except BaseException as error:  # a thread's own is printed and lost
            failed.append(error)

    threads = [threading.Thread(target=work, args=(lane,)) for lane in range(len(runners))]
    used = time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    used = time.process_time() - used
    rate = sum(sum(count for count, _ in lane) / sum(spent for _, spent in lane) for lane in done)
    times = [spent for lane in done for _, spent in lane]
    return rate, float(np.quantile(times, _LONG_SHARE, method="higher")), used / sum(times)
