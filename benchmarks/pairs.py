"""Paired, interleaved measurements and the statistics of their ratios.

The speed of a machine drifts, so two things are compared only within a pair of measurements taken side by
side, in alternating order (A B, B A, A B, …). The interval of the median is distribution-free: it lies
between two of the measured values and assumes only that the pairs are independent and alike.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from math import comb
from typing import TypeVar

_Reading = TypeVar("_Reading")

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median and its confidence interval.

    Attributes:
        low: Lower end of the interval, `high` the upper end.
        confidence: Of the interval: at least 95%, or less with fewer than 6 values.
        values: All measured values, in order.
    """

    median: float
    low: float
    high: float
    confidence: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> Estimate:
        """Estimate the median of the distribution of the values.

        The number of values below the true median is binomial with one half, so the k-th smallest and k-th
        largest enclose it with probability 1 - 2 P(fewer than k). The largest k with at least 95% is used.
        """
        seen = tuple(values)
        ordered = sorted(seen)
        count = len(ordered)
        depth, confidence = 1, _confidence(count, 1)
        while depth < count // 2 and _confidence(count, depth + 1) >= CONFIDENCE:
            depth += 1
            confidence = _confidence(count, depth)
        return cls(statistics.median(ordered), ordered[depth - 1], ordered[-depth], confidence, seen)

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g} … {self.high:.3g})"

    def as_json(self) -> dict[str, object]:
        """Return all fields, for a JSON file."""
        return asdict(self)


def _confidence(count: int, depth: int) -> float:
    outside = sum(comb(count, below) for below in range(depth)) / float(2**count)
    return max(0.0, 1 - 2 * outside)


def interleaved(
    rounds: int, *measures: Callable[[], _Reading], tick: Callable[[], None] = lambda: None
) -> list[tuple[_Reading, ...]]:
    """Take several measurements in turn, in reversed order every other round.

    Args:
        rounds: Number of rounds.
        measures: The measurements.
        tick: Called after each measurement, for a progress bar.

    Returns:
        One tuple of readings for each round, in the order of the arguments.
    """
    found: list[tuple[_Reading, ...]] = []
    for number in range(rounds):
        order = list(enumerate(measures))
        if number % 2:
            order.reverse()
        readings: dict[int, _Reading] = {}
        for index, measure in order:
            readings[index] = measure()
            tick()
        found.append(tuple(readings[index] for index in range(len(measures))))
    return found


def ratios(pairs: Sequence[Sequence[float]], over: int = 1, of: int = 0) -> Estimate:
    """Estimate the ratio of two columns of paired readings."""
    return Estimate.of(row[of] / row[over] for row in pairs)
