"""Utilization of a resource: the share of the time in which it was busy, smoothed for autoscaling."""

from __future__ import annotations

import math
import threading
import time

_TIME_CONSTANT_SECONDS = 30.0  # longer than a scrape interval, so that a scrape does not see one busy second


class Utilization:
    """An exponentially weighted moving average of busy time over elapsed time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy_seconds = 0.0
        self._ratio = 0.0
        self._updated = time.monotonic()

    def add(self, seconds: float) -> None:
        """Add busy time; may be called from any thread."""
        with self._lock:
            self._busy_seconds += seconds

    def update(self) -> float:
        """Include the time since the last call, and return the average, 0 to 1."""
        now = time.monotonic()
        with self._lock:
            busy_seconds, self._busy_seconds = self._busy_seconds, 0.0
        elapsed = max(now - self._updated, 1e-9)
        self._updated = now
        weight = 1 - math.exp(-elapsed / _TIME_CONSTANT_SECONDS)
        # Not limited before averaging: a long batch is added when it ends, for several intervals at once.
        self._ratio += weight * (busy_seconds / elapsed - self._ratio)
        return min(1.0, self._ratio)
