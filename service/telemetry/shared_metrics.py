"""The metrics of one service that is several processes: each counts in a file, any of them adds all up.

prometheus_client's own way for many processes, with a name for each place instead of a process id: who is
started in a dead one's place counts on from where it stopped, so that no counter ever goes back.
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

# What is not added up: since when, and how near to its limit the process is that is nearest.
_MODES: dict[str, Literal["livemin", "livemax"]] = {
    "process_start_time_seconds": "livemin",
    "process_open_fds": "livemax",
    "process_max_fds": "livemin",
}


class SharedMetrics(Metrics):
    """The metrics of one of the processes. Made once a process, before any other metric.

    Args:
        name: The process's place, such as `engine` or `http-0`.
        folder: Where the files are; `PROMETHEUS_MULTIPROC_DIR` must name it too.
        restarts: How often the process was started before.
    """

    def __init__(self, name: str, folder: Path, restarts: int) -> None:
        mark_process_dead(name, str(folder))  # type: ignore[no-untyped-call] # what its predecessor had open
        values.ValueClass = values.MultiProcessValue(lambda: name)  # type: ignore[no-untyped-call]
        super().__init__()
        self._merged = CollectorRegistry()
        MultiProcessCollector(self._merged, str(folder))  # type: ignore[no-untyped-call]
        PlatformCollector(registry=self._merged)
        self._process = _ProcessNumbers()
        self._process.note()
        if restarts:
            self.process_restarted(name.partition("-")[0])

    def watch(
        self,
        models: Callable[[], Iterable[ModelState]],
        lanes: Callable[[], Iterable[tuple[str, bool]]],
        memory_limit_bytes: int | None,
    ) -> None:
        """Read the process's state at every scrape; see `Metrics.watch`."""
        self._merged.register(StateCollector(models, lanes, memory_limit_bytes))

    def watch_devices(self, states: Callable[[], Iterable[DeviceState]]) -> None:
        """Ask the GPUs' driver at every scrape: the process that is scraped, and no other."""
        self._merged.register(DeviceCollector(states))

    def watch_process(self) -> None:
        """Update this process's CPU, memory and dropped log lines; called at every heartbeat."""
        self._process.note()
        self.count_dropped_log_lines()

    def render(self) -> bytes:
        """Write all processes' metrics as text."""
        try:
            return generate_latest(self._merged)
        except struct.error:  # a process that was just starting had made a file, and not yet filled it
            return generate_latest(self._merged)


class _ProcessNumbers:
    """`process_*` of all processes together, under the names that they have for one."""

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

    def note(self) -> None:
        """Take this process's numbers as they are now."""
        for family in self._collector.collect():
            for sample in family.samples:
                if family.name in self._gauges:
                    self._gauges[family.name].set(sample.value)
                elif family.name == "process_cpu_seconds":
                    self._cpu.inc(sample.value - self._last_cpu)
                    self._last_cpu = sample.value
