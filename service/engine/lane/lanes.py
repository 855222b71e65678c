"""All lanes of the process, by device. A lane is made when a model first needs it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from service.engine.lane.lane import Lane
from service.engine.observer import Observer


@dataclass(frozen=True, slots=True)
class LaneState:
    """A lane's state, for probes.

    Attributes:
        silent_seconds: Time since a thread last showed that it is alive; 0 while a batch runs.
        busy_seconds: Time since the oldest unfinished batch was claimed; 0 without one.
        restarts: Deaths of a thread in a row.
        gave_up: Whether the lane ended after too many of them.
    """

    device: str
    silent_seconds: float
    busy_seconds: float
    restarts: int
    gave_up: bool


class Lanes:
    """The lanes of the process, one per device.

    Args:
        observer: Is told what happens on the lanes.
        restart_limit: Deaths in a row after which a lane ends.
    """

    def __init__(self, observer: Observer, *, restart_limit: int = 5) -> None:
        self._observer = observer
        self._restart_limit = restart_limit
        self._lanes: dict[str, Lane] = {}
        self._lock = threading.Lock()

    def on(self, device: str) -> Lane:
        """Return the lane of a device; it is started."""
        with self._lock:
            lane = self._lanes.get(device)
            if lane is None:
                threads = 1 if device.startswith("cpu") else 2  # the second copies while the first runs
                lane = Lane(device, self._observer, restart_limit=self._restart_limit, threads=threads)
                self._lanes[device] = lane
                lane.start()
            return lane

    def request_heartbeat(self) -> None:
        """Have every idle lane show that it is alive."""
        for lane in list(self._lanes.values()):
            lane.request_heartbeat()

    def states(self) -> list[LaneState]:
        """Return the state of every lane."""
        now = time.monotonic()
        states = []
        for lane in list(self._lanes.values()):
            busy_since = lane.busy_since
            busy = now - busy_since if busy_since is not None else 0.0
            silent = 0.0 if busy_since is not None else now - lane.last_seen
            states.append(LaneState(lane.device, silent, busy, lane.restarts, lane.gave_up))
        return states

    def stop(self) -> None:
        """Stop every lane after its claimed batches."""
        for lane in list(self._lanes.values()):
            lane.stop()
