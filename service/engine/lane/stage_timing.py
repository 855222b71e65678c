"""When the second of a lane's two threads claims its batch: as late as possible, and early enough.

    one    claim, copy │ run ──────────────┐ copy back, settle         claim, copy │ run …
    other              │      claim, copy ─│ run ──────────────────────┐ …

A claimed batch takes no more items, so a batch that is claimed too early is smaller than it could be. But it
must be copied by the time when the device is free. Used under the lane's lock; arithmetic only.
"""

from __future__ import annotations

import math

_SMOOTHING = 0.2
_SAFETY = 1.25  # times the average time of a copy
_EARLY_SHARE = 0.05  # of a run's expected time: the run may end that much earlier
_LEAST_SECONDS = 0.0005  # precision with which a thread wakes up


class StageTiming:
    """The time at which the next batch may be claimed.

    Attributes:
        staging: Whether a batch is claimed that is not on the device yet. There is at most one.
    """

    def __init__(self) -> None:
        self.staging = False
        self._copy_seconds = 0.0

    def premature_seconds(self, now: float, frees_at: float | None, run_seconds: float) -> float:
        """Return for how long it is still too early to claim a batch.

        Args:
            now: The clock.
            frees_at: When the device is expected to be free; None if it is free.
            run_seconds: Expected time of the whole run of the running batch.

        Returns:
            Seconds; 0 if it is time, infinity while another batch is staged.
        """
        if self.staging:
            return math.inf
        if frees_at is None:
            return 0.0
        lead = _SAFETY * self._copy_seconds + _EARLY_SHARE * run_seconds + _LEAST_SECONDS
        return max(0.0, frees_at - lead - now)

    def note_copy(self, seconds: float) -> None:
        """Note how long it took from a claim until the batch was on the device."""
        self._copy_seconds += _SMOOTHING * (seconds - self._copy_seconds)
