"""Turns on a lane's device: one batch or job runs at a time, and the next batch is claimed in time.

A lane with one thread claims a batch when the device is free; most methods here then do nothing. With two
threads, one claims and stages a batch while the other's runs. `StageTiming` says when.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.engine.lane.schedule import AnyQueue, Schedule
from service.engine.lane.stage_timing import StageTiming


class DeviceTurns:
    """The device of one lane.

    Args:
        lock: The lane's lock.
        clock: The time in seconds.
        overlapped: Whether one thread claims a batch while the other's runs.

    Attributes:
        lock: Held while a batch or a job is on the device.
    """

    def __init__(self, lock: threading.Lock, clock: Callable[[], float], *, overlapped: bool) -> None:
        self.lock = threading.Lock()
        self._lane_lock = lock
        self._clock = clock
        self._claimable = threading.Condition(lock)
        self._timing = StageTiming() if overlapped else None
        self._freed_at = -math.inf

    @contextmanager
    def take(self, since: float, ended: Callable[[float], None]) -> Iterator[float]:
        """Wait for the device and hold it.

        Args:
            since: When the work was claimed, in clock seconds.
            ended: Called at the end of the turn with the seconds for which the work kept the device from
                others: since it was claimed, or since the device was free for it.

        Yields:
            When the turn began, in clock seconds.
        """
        with self.lock:
            since = max(since, self._freed_at)
            try:
                yield self._clock()
            finally:
                self._freed_at = self._clock()
                ended(self._freed_at - since)

    def wait_until_claimable(self, schedule: Schedule[AnyQueue]) -> bool:
        """Wait if it is too early to claim a batch. The caller holds the lane's lock.

        Returns:
            Whether it waited, so that the caller must look again at what there is to do.
        """
        if self._timing is None:
            return False
        seconds = self._timing.premature_seconds(self._clock(), schedule.frees_at, schedule.running_seconds)
        if seconds <= 0:
            return False
        self._claimable.wait(None if seconds == math.inf else seconds)
        return True

    def note_claim(self) -> None:
        """Note that a thread claims a batch: no other does until it runs.

        The caller holds the lane's lock.
        """
        if self._timing is not None:
            self._timing.staging = True

    def note_staged(self, seconds: float) -> None:
        """Note how long it took from the claim until the inputs were on the device."""
        if self._timing is not None:
            self._timing.note_copy(seconds)

    def end_claim(self) -> None:
        """Note that the claimed batch runs now, or never will; another thread may claim the next one."""
        if self._timing is not None:
            with self._lane_lock:
                self._timing.staging = False
                self._claimable.notify_all()

    def wake(self) -> None:
        """Have waiting threads look again at what there is to do."""
        if self._timing is not None:
            with self._lane_lock:
                self.wake_locked()

    def wake_locked(self) -> None:
        """Do as `wake`. The caller holds the lane's lock."""
        self._claimable.notify_all()
