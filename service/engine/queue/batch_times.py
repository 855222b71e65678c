"""Expected times of a model's batches: a table by size, updated by every batch that runs.

A size is a batch's padded cost: its number of items times the largest cost of an item. Sizes fall into
buckets of powers of two. Between the mean sizes of two buckets, the time is interpolated. Pure arithmetic: no
clock, no lock, no queue.
"""

from __future__ import annotations

import bisect
import math
from collections import deque

_SMOOTHING = 0.2  # weight of the newest batch in its own bucket
_STALE_SMOOTHING = 0.8  # where that bucket has not been seen for _STALE batches
_STALE = 16
_SPREAD = 0.5  # share of a change that other buckets follow: a machine that slows down slows every size
_MOST_SURPRISE = 2.0  # a batch counts as at most this many times slower, or faster, than expected
LEAST_MARGIN, FIRST_MARGIN, MOST_MARGIN = 1.05, 1.5, 2.0


class TimeTable:
    """Expected seconds of a batch by its size, and how much longer batches may take."""

    def __init__(self) -> None:
        self._buckets: dict[int, _Bucket] = {}
        self._points: list[_Bucket] = []
        self._sizes: list[float] = []
        self._batches = 0
        self._ratios = Ratios(remembered=128, fewest=16, quantile=0.95)

    @property
    def known(self) -> int:
        """Number of sizes, by powers of two, that were timed."""
        return len(self._points)

    @property
    def largest(self) -> float:
        """The largest size that was timed; 0 before any."""
        return self._sizes[-1] if self._sizes else 0.0

    @property
    def margin(self) -> float:
        """A high quantile of a batch's time over what was expected of it, 1.05 to 2."""
        return self._ratios.margin(FIRST_MARGIN)

    def seconds(self, size: float) -> float:
        """Return the expected time of a batch of this size; 0 before anything was timed.

        Above the largest size, the line through the smallest and the largest is continued. Below the smallest
        size, the time is that of the smallest: the fixed cost of a run is not known.
        """
        points, sizes = self._points, self._sizes
        if not points:
            return 0.0
        if size <= sizes[0]:
            return points[0].seconds
        if len(points) == 1:
            return points[0].seconds * size / sizes[0]
        if size > sizes[-1]:
            low, high = points[0], points[-1]
            return high.seconds + max(0.0, _slope(low, high)) * (size - high.size)
        i = bisect.bisect_left(sizes, size)
        low, high = points[i - 1], points[i]
        return high.seconds + _slope(low, high) * (size - high.size)

    def seed(self, size: float, seconds: float) -> None:
        """Set the time of a size, measured outside of the traffic."""
        self._buckets[_bucket_of(size)] = _Bucket(size, seconds)
        self._rebuild()

    def record(self, size: float, seconds: float) -> None:
        """Learn from a batch that just ran. A single outlier changes little."""
        expected = self.seconds(size)
        if expected <= 0:
            self.seed(size, seconds)
            return
        ratio = seconds / expected
        self._ratios.add(ratio)
        ratio = min(max(ratio, 1 / _MOST_SURPRISE), _MOST_SURPRISE)
        own = self._buckets.setdefault(_bucket_of(size), _Bucket(size, expected))
        self._batches += 1
        weight = _STALE_SMOOTHING if self._batches - own.seen > _STALE else _SMOOTHING
        own.seen = self._batches
        moved = own.size + _SMOOTHING * (size - own.size)
        own.seconds, own.size = self.seconds(moved), moved
        own.seconds *= 1 + weight * (ratio - 1)
        for other in self._points:
            if other is not own:
                other.seconds *= 1 + _SPREAD * _SMOOTHING * (ratio - 1)
        self._rebuild()

    def largest_within(self, seconds: float, most: int) -> int:
        """Return the largest size, 1 to `most`, whose expected time is within some seconds; 1 if none."""
        if self.seconds(most) <= seconds:
            return most
        low, high = 1, most
        while high - low > 1:
            middle = (low + high) // 2
            if self.seconds(middle) <= seconds:
                low = middle
            else:
                high = middle
        return low

    def _rebuild(self) -> None:
        self._points = [self._buckets[index] for index in sorted(self._buckets)]
        self._sizes = [point.size for point in self._points]


class Ratios:
    """The last ratios of real to expected times, and a high quantile of them.

    Args:
        remembered: Largest number of ratios that are kept.
        fewest: Number of ratios from which on the quantile is used.
        quantile: Between 0 and 1.
        lasting_seconds: Age at which a ratio is removed.
    """

    def __init__(
        self, *, remembered: int, fewest: int, quantile: float, lasting_seconds: float = math.inf
    ) -> None:
        self._remembered = remembered
        self._lasting_seconds = lasting_seconds
        self._fewest = fewest
        self._quantile = quantile
        self._ratios: deque[tuple[float, float]] = deque()
        self._sorted: list[float] = []

    @property
    def empty(self) -> bool:
        """Whether there are no ratios."""
        return not self._sorted

    def add(self, ratio: float, now: float = 0.0) -> None:
        """Add a ratio."""
        self._ratios.append((now, ratio))
        bisect.insort(self._sorted, ratio)
        if len(self._ratios) > self._remembered:
            self._forget()

    def margin(self, otherwise: float, now: float = 0.0) -> float:
        """Return the quantile, limited to 1.05 to 2, or `otherwise` while there are too few ratios."""
        while self._ratios and self._ratios[0][0] < now - self._lasting_seconds:
            self._forget()
        if len(self._sorted) < self._fewest:
            return otherwise
        return min(max(self._sorted[int(self._quantile * len(self._sorted))], LEAST_MARGIN), MOST_MARGIN)

    def _forget(self) -> None:
        _, oldest = self._ratios.popleft()
        del self._sorted[bisect.bisect_left(self._sorted, oldest)]


class _Bucket:
    """Mean size and mean time of batches of similar size."""

    __slots__ = ("seconds", "seen", "size")

    def __init__(self, size: float, seconds: float) -> None:
        self.size = size
        self.seconds = seconds
        self.seen = 0


class Meter:
    """Recent rate of something, in amounts a second, with exponential decay. Not for concurrent use.

    Args:
        memory_seconds: Time constant of the decay.
    """

    __slots__ = ("_amount", "_memory_seconds", "_then")

    def __init__(self, memory_seconds: float = 1.0) -> None:
        self._memory_seconds = memory_seconds
        self._amount = 0.0
        self._then = 0.0

    def add(self, amount: float, now: float) -> None:
        """Add an amount."""
        self._amount = self._faded(now) + amount
        self._then = now

    def rate(self, now: float) -> float:
        """Return the amount a second."""
        return self._faded(now) / self._memory_seconds

    def _faded(self, now: float) -> float:
        return self._amount * math.exp((self._then - now) / self._memory_seconds)


def _slope(low: _Bucket, high: _Bucket) -> float:
    return (high.seconds - low.seconds) / (high.size - low.size)


def _bucket_of(size: float) -> int:
    return max(int(size), 1).bit_length()
