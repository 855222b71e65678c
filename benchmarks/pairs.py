"""Paired, interleaved measuring: A B, B A, A B …, and what can be said of the ratios.

A machine drifts, so two things are only compared within a pair that was measured side by side. The interval
of the median is the distribution-free one, between two of the values that were seen: it assumes nothing but
that pairs are alike, and never claims more than the number of pairs can carry.
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
    """A median, and where the true one lies.

    Attributes:
        low: Lower end of the interval, `high` the upper end.
        confidence: Of the interval: at least 95%, or less where there are fewer than 6 values.
        values: Everything that was measured, in order.
    """

    median: float
    low: float
    high: float
    confidence: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> Estimate:
        """Estimate the median of what the values are drawn from.

        The number of values below the true median is binomial with one half, so the k-th smallest and k-th
        largest enclose it with probability 1 - 2 P(fewer than k). The largest such k with 95% is taken.
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
        """Give every field, ready for a JSON file."""
        return asdict(self)


def _confidence(count: int, depth: int) -> float:
    outside = sum(comb(count, below) for below in range(depth)) / float(2**count)
    return max(0.0, 1 - 2 * outside)


def interleaved(
    rounds: int, *measures: Callable[[], _Reading], tick: Callable[[], None] = lambda: None
) -> list[tuple[_Reading, ...]]:
    """Measure several things in turn, the order reversed from round to round.

    Args:
        rounds: How often.
        measures: What to measure.
        tick: Called after each measurement, for a progress bar.

    Returns:
        One tuple of readings a round, in the order of the arguments.
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
