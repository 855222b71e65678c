"""The plan of a run: device, cores, durations, and the time that is left."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.pairs import interleaved

_Reading = TypeVar("_Reading")

_OVERHEAD = 1.3  # real time of a measurement over its planned time


class OutOfTime(Exception):
    """The time of the run is over."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a run.

    Attributes:
        device: `cpu` or `cuda`.
        quick: Whether only to test that everything works, with tiny networks.
        rounds: Number of readings of each thing; fewer if the time is short.
        seconds: Duration of one reading.
        workers: `--http-workers` to try; 0 is a single process.
        service: Cores of the service.
        load: Cores of the load generators.
        ends: When the time is over, in clock seconds.
    """

    device: str
    quick: bool
    rounds: int
    seconds: float
    workers: tuple[int, ...]
    service: tuple[int, ...]
    load: tuple[int, ...]
    ends: float

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.ends - time.monotonic()

    def require(self, seconds: float) -> None:
        """Raise if less time is left.

        Raises:
            OutOfTime: Less time is left.
        """
        if self.left < seconds:
            raise OutOfTime

    def measure(self, *measures: Callable[[], _Reading]) -> list[tuple[_Reading, ...]]:
        """Measure several things in turn, in as many rounds as the time allows.

        Returns:
            One tuple of readings per round, in the order of the arguments.

        Raises:
            OutOfTime: Not even one round fits.
        """
        a_round = len(measures) * self.seconds * _OVERHEAD
        self.require(a_round)
        return interleaved(min(self.rounds, int(self.left / a_round)), *measures)


def divide(cores: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Divide cores between the service and the load, which gets a quarter, at least one.

    Returns:
        Cores of the service and of the load; the same one where there is only one.
    """
    if len(cores) == 1:
        return tuple(cores), tuple(cores)
    count = max(1, len(cores) // 4)
    return tuple(cores[:-count]), tuple(cores[-count:])


def usable_cores() -> list[int]:
    """Return the cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def worker_counts(cores: int) -> tuple[int, ...]:
    """Return the numbers of HTTP workers to try on a number of cores, the most promising first."""
    return tuple(dict.fromkeys([cores // 2, 0, cores, cores // 4]))
