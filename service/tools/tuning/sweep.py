"""Measures settings: sessions run batches as lanes do, in a new random order each round.

Each round opens the sessions of one pair of lanes and threads, measures every batch size with them, and
closes them before the next pair, which bounds memory. The result of a setting is the median over the rounds.
"""

from __future__ import annotations

import itertools
import random
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.engine.queue.batch import stack
from service.tools.tuning.items import TuningItem

Arrays = Mapping[str, NDArray[Any]]
_MAX_PADDING_RATIO = 1.25  # as in service.engine.queue.batch
_BATCH_QUANTILE = 0.9  # of batch times, because batches of long items take longer


class BatchRunner(Protocol):
    """Runs batches; `Session` does."""

    def run(self, inputs: Arrays) -> Arrays:
        """Run a batch."""


@dataclass(frozen=True, slots=True, order=True)
class TuningSetting:
    """One way to run a model: parallel sessions, threads of each, and the batch size."""

    lanes: int
    threads: int
    max_items: int = 1


@dataclass(frozen=True, slots=True)
class Measurement:
    """The results of a setting, as medians over the rounds.

    Attributes:
        items_per_second: With every lane busy.
        batch_seconds: 0.9 quantile of batch times.
        cpu_share: CPU time of the process over the run time of all lanes. Well below 1 on a CPU, other
            processes used it too.
    """

    setting: TuningSetting
    items_per_second: float
    batch_seconds: float
    cpu_share: float = 1.0

    @property
    def answer_seconds(self) -> float:
        """Longest wait on a busy host: the batch that is running, and the request's own."""
        return 2 * self.batch_seconds


def settings_for(cpus: int, max_items: int) -> list[TuningSetting]:
    """Return the settings to try.

    Lanes: one, or as many as fill the CPUs. Threads: 1, 2, 4, … and all CPUs. Batch sizes: 1, 2, 4, … and the
    largest.
    """
    pairs = {(lanes, threads) for threads in _doubling(cpus) for lanes in (1, cpus // threads)}
    return [TuningSetting(*pair, size) for pair in sorted(pairs) for size in _doubling(max_items)]


def _doubling(most: int) -> list[int]:
    """Return 1, 2, 4, … up to a limit, and the limit."""
    return sorted({2**power for power in range(most.bit_length())} | {most})


def sweep(
    settings: Sequence[TuningSetting],
    items: Sequence[TuningItem],
    open_runner: Callable[[TuningSetting, int], BatchRunner],
    *,
    seconds: float,
    rounds: int,
    max_cost: int | None = None,
    tick: Callable[[], None] = lambda: None,
) -> list[Measurement]:
    """Measure settings.

    Args:
        settings: In order of lanes and threads.
        items: Sorted by cost.
        open_runner: Opens the session of one lane, by setting and number of the lane.
        seconds: Approximate total. Each measurement takes its share, at least one batch in each lane.
        rounds: Number of measurements of each setting.
        max_cost: Largest padded cost of a batch.
        tick: Called after each measurement.
    """
    generator = random.Random(0)
    readings: dict[TuningSetting, list[tuple[float, float, float]]] = {setting: [] for setting in settings}
    share = seconds / max(1, rounds * len(settings))
    groups = [list(group) for _, group in itertools.groupby(settings, lambda one: (one.lanes, one.threads))]
    for _ in range(rounds):
        for group in generator.sample(groups, len(groups)):
            runners = [open_runner(group[0], lane) for lane in range(group[0].lanes)]
            for setting in generator.sample(group, len(group)):
                batches = make_batches(items, setting.max_items, max_cost)
                readings[setting].append(_measure(runners, batches, share, generator.random()))
                tick()
    return [
        Measurement(setting, *(statistics.median(column) for column in zip(*found, strict=True)))
        for setting, found in readings.items()
    ]


def make_batches(items: Sequence[TuningItem], max_items: int, max_cost: int | None) -> list[list[TuningItem]]:
    """Group items, sorted by cost, into batches within the queue's limits on count, cost and padding."""
    batches: list[list[TuningItem]] = []
    real = 0
    for item in items:
        count = len(batches[-1]) + 1 if batches else 1
        padded = count * item.cost
        fits = count <= max_items and (max_cost is None or padded <= max_cost)
        if not batches or not fits or padded > _MAX_PADDING_RATIO * (real + item.cost):
            batches.append([])
            real = 0
        batches[-1].append(item)
        real += item.cost
    return batches


def _measure(
    runners: Sequence[BatchRunner], batches: Sequence[Sequence[TuningItem]], seconds: float, seed: float
) -> tuple[float, float, float]:
    """Run batches in all lanes at the same time.

    Returns:
        Items a second over all lanes, the 0.9 quantile of batch seconds, and the share of CPU time.
    """
    stacked = [(stack([item.inputs for item in batch]), len(batch)) for batch in batches]
    for runner in runners:  # allocates memory for the largest batch before the measurement
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
        except BaseException as error:  # raised in the calling thread below
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
    return rate, float(np.quantile(times, _BATCH_QUANTILE, method="higher")), used / sum(times)
