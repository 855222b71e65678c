"""Metrics of a service with several processes: each counts in files, and each can return the sum of all.

This is prometheus_client's multiprocess mode, with a fixed name per process instead of a process id: a
restarted process continues the counters of the one before it, so that no counter goes back.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from service.telemetry.devices import DeviceCollector, DeviceState
from service.telemetry.metrics import Metrics, ModelState, StateCollector

# Gauges that are not summed: the earliest start, and the process that is nearest to its limit.
_MODES: dict[str, Literal["livemin", "livemax"]] = {
    "process_start_time_seconds": "livemin",
    "process_open_fds": "livemax",
    "process_max_fds": "livemin",
}


class SharedMetrics(Metrics):
    """Metrics of one of several processes. Create it once per process, before any other metric.

    Args:
        name: The process's name, such as `engine` or `http-0`.
        folder: Folder of the files; `PROMETHEUS_MULTIPROC_DIR` must name it too.
        restarts: How often the process was restarted.
    """

    def __init__(self, name: str, folder: Path, restarts: int) -> None:
        mark_process_dead(name, str(folder))  # type: ignore[no-untyped-call] # gauges of the process before it
        values.ValueClass = values.MultiProcessValue(lambda: name)  # type: ignore[no-untyped-call]
        super().__init__()
        self._merged = CollectorRegistry()
        MultiProcessCollector(self._merged, str(folder))  # type: ignore[no-untyped-call]
        PlatformCollector(registry=self._merged)
        self._process = _ProcessNumbers()
        self._process.update()
        if restarts:
            self.process_restarted(name.partition("-")[0])

    def watch(
        self,
        models: Callable[[], Iterable[ModelState]],
        lanes: Callable[[], Iterable[tuple[str, bool]]],
        memory_limit_bytes: int | None,
    ) -> None:
        """Read the state at each scrape; see `Metrics.watch`."""
        self._merged.register(StateCollector(models, lanes, memory_limit_bytes))

    def watch_devices(self, states: Callable[[], Iterable[DeviceState]]) -> None:
        """Read the GPUs' state at each scrape, only in the process that is scraped."""
        self._merged.register(DeviceCollector(states))

    def heartbeat(self) -> None:
        """Update what is measured at intervals, and this process's CPU and memory."""
        super().heartbeat()
        self._process.update()

    def render(self) -> bytes:
        """Return the metrics of all processes in the text format."""
        try:
            return generate_latest(self._merged)
        except struct.error:  # a starting process has created a file and not filled it yet
            return generate_latest(self._merged)


class _ProcessNumbers:
    """`process_*` metrics, summed over all processes."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._collector = ProcessCollector(registry=None)
        self._last_cpu = 0.0
        self._cpu = Counter(
            "process_cpu_seconds", "Total user and system CPU time spent in seconds.", registry=registry
        )
        self._gauges = {
            family.name: Gauge(
                family.name,
                family.documentation,
                registry=registry,
                multiprocess_mode=_MODES.get(family.name, "livesum"),
            )
            for family in self._collector.collect()
            if family.type == "gauge"
        }

    def update(self) -> None:
        """Read this process's current numbers."""
        for family in self._collector.collect():
            for sample in family.samples:
                if family.name in self._gauges:
                    self._gauges[family.name].set(sample.value)
                elif family.name == "process_cpu_seconds":
                    self._cpu.inc(sample.value - self._last_cpu)
                    self._last_cpu = sample.value
