"""How a run is made: on which device and cores, how long, and what is left of its time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.pairs import interleaved

_Reading = TypeVar("_Reading")

_OVERHEAD = 1.3  # what a measurement takes over the seconds that it is meant to


class OutOfTime(Exception):
    """The minutes that were given are over."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a run is made.

    Attributes:
        device: `cpu` or `cuda`.
        quick: Only look whether everything works: next to no networks.
        rounds: Pairs of readings, fewer as time runs out.
        seconds: Of one reading.
        workers: `--http-workers` to try; 0 is a single process.
        service: Cores of the service.
        load: Cores of those that ask it.
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
        """See that so much time is left.

        Raises:
            OutOfTime: It is not.
        """
        if self.left < seconds:
            raise OutOfTime

    def measure(self, *measures: Callable[[], _Reading]) -> list[tuple[_Reading, ...]]:
        """Measure several things in turn, in as many rounds as the time allows.

        Returns:
            One tuple of readings a round, in the order of the arguments.

        Raises:
            OutOfTime: Not even one round fits.
        """
        a_round = len(measures) * self.seconds * _OVERHEAD
        self.require(a_round)
        return interleaved(min(self.rounds, int(self.left / a_round)), *measures)


def divide(cores: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Divide cores between the service and the load: a quarter, and at least one, makes the load.

    Returns:
        Cores of the service and of the load; the same one where there is only one.
    """
    if len(cores) == 1:
        return tuple(cores), tuple(cores)
    count = max(1, len(cores) // 4)
    return tuple(cores[:-count]), tuple(cores[-count:])


def usable_cores() -> list[int]:
    """List the cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def worker_counts(cores: int) -> tuple[int, ...]:
    """Choose which numbers of HTTP workers to try on so many cores, the likeliest best first."""
    return tuple(dict.fromkeys([cores // 2, 0, cores, cores // 4]))
