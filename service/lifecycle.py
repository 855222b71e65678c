"""The state of the process: starting, serving, draining or closed, and whether it is healthy.

The probes ask here. The answers come from the catalog, the lanes and the lag of the event loop. Idle lanes
are asked for a heartbeat.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from service.backend import LaneStates
from service.repository.catalog import Catalog
from service.settings import Settings


class Lifecycle:
    """The state of the process. Belongs to the event loop.

    Attributes:
        draining: The readiness probe fails, but requests are still served.
        closed: New work is refused.
    """

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        lanes: LaneStates,
        observe_lag: Callable[[float], None],
        every_heartbeat: Callable[[], None],
    ) -> None:
        self.draining = False
        self.closed = False
        self._settings = settings
        self._catalog = catalog
        self._lanes = lanes
        self._observe_lag = observe_lag
        self._every_heartbeat = every_heartbeat
        self._lag_seconds = 0.0

    def not_live(self) -> list[str]:
        """Return the reasons to restart the process; none while it is healthy."""
        reasons = []
        if self._lag_seconds > self._settings.event_loop_lag_limit_seconds:
            reasons.append(f"the event loop was {self._lag_seconds:.1f} s late")
        for lane in self._lanes.states():
            if lane.gave_up:
                reasons.append(f"lane {lane.device} died {lane.restarts} times in a row and gave up")
            if lane.busy_seconds > self._settings.batch_limit_seconds:
                reasons.append(
                    f"a batch on lane {lane.device} has been running for {lane.busy_seconds:.0f} s"
                )
        return reasons

    def not_ready(self) -> list[str]:
        """Return the reasons to send no requests; none while the process is ready."""
        reasons = []
        if self.draining:
            reasons.append("draining")
        if not self._catalog.loaded:
            reasons.append("models are loading")
        reasons += [f"model {name}: {why}" for name, why in self._catalog.missing().items()]
        for lane in self._lanes.states():
            if lane.silent_seconds > self._settings.heartbeat_limit_seconds:
                reasons.append(f"lane {lane.device} gives no sign of life")
        return reasons

    async def watch(self) -> None:
        """Measure the lag of the event loop and ask the lanes for heartbeats, until cancelled."""
        interval = self._settings.heartbeat_seconds
        while True:
            asleep = time.monotonic()
            await asyncio.sleep(interval)
            self._lag_seconds = max(0.0, time.monotonic() - asleep - interval)
            self._observe_lag(self._lag_seconds)
            self._lanes.request_heartbeat()
            self._every_heartbeat()


def memory_limit_bytes() -> int | None:
    """Return the container's memory limit from its cgroup; None if there is none."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(limit) if limit.isdecimal() else None
