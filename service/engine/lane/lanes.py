"""All lanes of the process, by device: made when a model first needs one, asked for signs of life."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from service.engine.lane.lane import Lane
from service.engine.observer import Observer


@dataclass(frozen=True, slots=True)
class LaneState:
    """What probes need to know of a lane.

    Attributes:
        silent_seconds: Since its thread last showed that it lives; 0 while a batch runs.
        busy_seconds: How long the running batch has been running; 0 where none is.
    """

    device: str
    silent_seconds: float
    busy_seconds: float
    restarts: int
    gave_up: bool


class Lanes:
    """The process's lanes, one a device.

    Args:
        restart_limit: Deaths in a row after which a lane gives up.
    """

    def __init__(self, observer: Observer, *, restart_limit: int = 5) -> None:
        self._observer = observer
        self._restart_limit = restart_limit
        self._lanes: dict[str, Lane] = {}
        self._lock = threading.Lock()

    def on(self, device: str) -> Lane:
        """Give the lane of a device, started."""
        with self._lock:
            lane = self._lanes.get(device)
            if lane is None:
                threads = 1 if device.startswith("cpu") else 2  # the second copies while the first runs
                lane = Lane(device, self._observer, restart_limit=self._restart_limit, threads=threads)
                self._lanes[device] = lane
                lane.start()
            return lane

    def knock(self) -> None:
        """Ask every lane for a sign of life."""
        for lane in list(self._lanes.values()):
            lane.knock()

    def states(self) -> list[LaneState]:
        """Tell how every lane is."""
        now = time.monotonic()
        states = []
        for lane in list(self._lanes.values()):
            busy_since = lane.busy_since
            busy = now - busy_since if busy_since is not None else 0.0
            silent = 0.0 if busy_since is not None else now - lane.last_seen
            states.append(LaneState(lane.device, silent, busy, lane.restarts, lane.gave_up))
        return states

    def stop(self) -> None:
        """End every lane after its running batch."""
        for lane in list(self._lanes.values()):
            lane.stop()
