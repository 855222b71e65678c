"""What a measurement used: CPU time by process, and the GPU where NVML is installed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_TICKS = os.sysconf("SC_CLK_TCK")
_SAMPLE_SECONDS = 0.05
_BUSY = 0.9  # use from which something counts as the limit


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU time in cores, the mean over a measurement.

    Attributes:
        processes: Number of processes of one kind.
        user: User time of all of them; `system` is their time in the kernel.
    """

    processes: int
    user: float
    system: float

    @property
    def each(self) -> float:
        """Cores that one process kept busy."""
        return (self.user + self.system) / max(1, self.processes)


@dataclass(slots=True)
class Usage:
    """What was used.

    Attributes:
        cpu: CPU time by kind of process.
        gpu: Share of the time in which a kernel ran; None without NVML.
    """

    cpu: dict[str, Cpu] = field(default_factory=dict)
    gpu: float | None = None

    def limit(self, service_cores: int, load_cores: int) -> str:
        """Return what was busy for at least nine tenths of the time, the GPU first."""
        if self.gpu is not None and self.gpu >= _BUSY:
            return "the GPU"
        load = self.cpu.get("load")
        if load and load.user + load.system >= _BUSY * load_cores:
            return "the load generator"
        service = [cpu for kind, cpu in self.cpu.items() if kind != "load"]
        if sum(cpu.user + cpu.system for cpu in service) >= _BUSY * service_cores:
            return "all cores of the service"
        for kind, what in (
            ("service", "the only process of the service"),
            ("engine", "the engine's process"),
            ("http", "the HTTP workers"),
        ):
            if kind in self.cpu and self.cpu[kind].each >= _BUSY:
                return what
        return "nothing alone: it waits"

    def text(self, service_cores: int, load_cores: int) -> str:
        """Return in one line what was used and what limits."""
        kinds = sorted(self.cpu.items())
        parts = [f"{cpu.processes} {kind} {cpu.user:.2f}+{cpu.system:.2f}" for kind, cpu in kinds]
        gpu = "" if self.gpu is None else f"; GPU {self.gpu:.0%}"
        cores = f"{service_cores}+{load_cores}"
        limit = self.limit(service_cores, load_cores)
        return f"limit: {limit}; cores user+system of {cores}: {', '.join(parts)}{gpu}"


@contextmanager
def metered(server: int | None = None, seconds: float | None = None) -> Iterator[Usage]:
    """Measure what a block uses.

    Args:
        server: Process id of a server, which is counted with its children by kind. By default this process is
            the service. The time of our own children that end meanwhile counts as the load's.
        seconds: For how long the block worked; the rest counts as idle. By default all of it.

    Yields:
        The usage, filled in at the end.
    """
    usage = Usage()
    samples: list[int] = []
    stop = threading.Event()
    watcher = threading.Thread(target=_watch_gpu, args=(samples, stop), daemon=True)
    watcher.start()
    before, children, began = _by_process(server), os.times(), time.monotonic()
    try:
        yield usage
    finally:
        after, ended = _by_process(server), os.times()
        seconds = seconds or time.monotonic() - began
        stop.set()
        watcher.join()
        usage.cpu = _difference(before, after, seconds)
        user = (ended.children_user - children.children_user) / seconds
        system = (ended.children_system - children.children_system) / seconds
        if user + system:
            usage.cpu["load"] = Cpu(1, user, system)
        usage.gpu = min(1.0, sum(samples) * _SAMPLE_SECONDS / seconds / 100) if samples else None


_Times = Mapping[int, tuple[str, float, float]]


def _difference(before: _Times, after: _Times, seconds: float) -> dict[str, Cpu]:
    found: dict[str, Cpu] = {}
    for pid, (kind, user, system) in after.items():
        _, user_before, system_before = before.get(pid, (kind, 0.0, 0.0))
        cpu = found.get(kind, Cpu(0, 0.0, 0.0))
        found[kind] = Cpu(
            cpu.processes + 1,
            cpu.user + (user - user_before) / seconds,
            cpu.system + (system - system_before) / seconds,
        )
    return found


def _by_process(server: int | None) -> _Times:
    """Read kind, user and system seconds of a server's processes, or of this one."""
    root = os.getpid() if server is None else server
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:  # the process has ended
            continue
        pid, parent = int(folder.name), int(fields[1])
        if pid == root or (server is not None and parent == root):
            found[pid] = (_kind(command), int(fields[11]) / _TICKS, int(fields[12]) / _TICKS)
    if len(found) > 1:  # then the first one only supervises the others
        found.pop(root)
    return found


def _kind(command: list[bytes]) -> str:
    if b"service.multiprocess" not in command:
        return "service"
    return command[command.index(b"service.multiprocess") + 1].decode().partition("-")[0]


def _watch_gpu(samples: list[int], stop: threading.Event) -> None:
    """Sample the GPU's utilisation; do nothing without NVML."""
    nvml = _nvml()
    if nvml is None:
        return
    device = nvml.nvmlDeviceGetHandleByIndex(0)
    while not stop.wait(_SAMPLE_SECONDS):
        samples.append(nvml.nvmlDeviceGetUtilizationRates(device).gpu)


def _nvml() -> Any:
    try:
        import pynvml  # type: ignore[import-not-found,unused-ignore] # noqa: PLC0415 # in the gpu extra
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml
