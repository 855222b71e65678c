"""When the second of a lane's two threads claims: as late as it can, and early enough.

    one    claim, copy │ run ──────────────┐ bring back, settle        claim, copy │ run …
    other              │      claim, copy ─│ run ──────────────────────┐ …

A claimed batch is closed to newcomers, so every moment by which it is claimed too early makes it smaller. But
the device must find it copied when it becomes free. Used under the lane's lock; arithmetic only.
"""

from __future__ import annotations

import math

_SMOOTHING = 0.2
_SAFETY = 1.25  # times what copying takes on average
_EARLY_SHARE = 0.05  # of a run's expected time: it may end so much sooner
_LEAST_SECONDS = 0.0005  # a thread wakes up no more exactly


class StageTiming:
    """Whose turn it is to claim.

    Attributes:
        staging: Whether a batch is claimed that is not on the device yet. There is at most one.
    """

    def __init__(self) -> None:
        self.staging = False
        self._copy_seconds = 0.0

    def premature_seconds(self, now: float, frees_at: float | None, run_seconds: float) -> float:
        """Tell how long a claim would still be premature.

        Args:
            now: The clock.
            frees_at: When the device is expected to be free; None while it is.
            run_seconds: How long the running batch is expected to take in all.

        Returns:
            0 where it is time, infinity while another batch is staged.
        """
        if self.staging:
            return math.inf
        if frees_at is None:
            return 0.0
        lead = _SAFETY * self._copy_seconds + _EARLY_SHARE * run_seconds + _LEAST_SECONDS
        return max(0.0, frees_at - lead - now)

    def copied(self, seconds: float) -> None:
        """Note how long it took from the claim until the batch stood on the device."""
        self._copy_seconds += _SMOOTHING * (seconds - self._copy_seconds)
