"""What NVIDIA's driver says of the GPUs, asked through its management library (NVML) at every scrape.

Whoever is scraped asks: a device's numbers belong to no process, and asking takes nothing of the device.
Where there is no NVML, or it forbids something, that much is left out; nothing ever fails for want of it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

try:
    import pynvml
except ImportError:  # it comes with the gpu extra
    pynvml = None

_Value = TypeVar("_Value")

_PATIENCE_SECONDS = 1.0  # for another scrape's question, which a broken driver may never answer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeviceState:
    """One GPU, or the part of one that is this process's; None where the driver does not tell.

    Attributes:
        device: As lanes are named.
        used_bytes: By all processes, the driver included.
        utilization: Share of the last moments in which something ran, 0 to 1.
        memory_errors: That could not be corrected, since the driver was loaded.
    """

    device: str
    used_bytes: int | None = None
    total_bytes: int | None = None
    utilization: float | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None
    memory_errors: int | None = None


def this_process_devices() -> Devices:
    """Give the GPUs that this process may use."""
    return Devices(pynvml, os.environ.get("CUDA_VISIBLE_DEVICES"))


class Devices:
    """The GPUs that CUDA shows this process; `cuda:0` is the first one.

    CUDA and the driver number them alike where all are of one kind, else with `CUDA_DEVICE_ORDER=PCI_BUS_ID`.

    Args:
        nvml: NVIDIA's module; None where it is not installed.
        visible: What `CUDA_VISIBLE_DEVICES` says: numbers or identifiers; None is every GPU.
    """

    def __init__(self, nvml: Any, visible: str | None) -> None:
        self._nvml = nvml
        self._visible = visible
        self._opened = False
        self._lock = threading.Lock()

    def states(self) -> list[DeviceState]:
        """Ask the driver; empty where there is none, or where it still owes another an answer."""
        if self._nvml is None or not self._lock.acquire(timeout=_PATIENCE_SECONDS):
            return []
        try:
            self._open()
            return [self._state(f"cuda:{index}", handle) for index, handle in enumerate(self._handles())]
        except self._nvml.NVMLError as error:
            if not self._opened:
                _log.info("no metrics of GPUs: %s", error)
                self._nvml = None
            return []
        finally:
            self._lock.release()

    def _open(self) -> None:
        if not self._opened:
            self._nvml.nvmlInit()
            self._opened = True

    def _handles(self) -> Iterator[Any]:
        nvml = self._nvml
        if self._visible is None:
            for index in range(nvml.nvmlDeviceGetCount()):
                yield self._part_of(nvml.nvmlDeviceGetHandleByIndex(index))
            return
        for name in self._visible.split(","):
            if name.strip().isdecimal():
                yield self._part_of(nvml.nvmlDeviceGetHandleByIndex(int(name)))
            elif name.strip().startswith(("GPU-", "MIG-")):
                yield self._part_of(nvml.nvmlDeviceGetHandleByUUID(name.strip()))
            else:  # CUDA too ignores what follows a name that is none
                return

    def _part_of(self, gpu: Any) -> Any:
        """Give the instance that CUDA takes of a GPU that is divided (MIG), the first; else the GPU."""
        nvml = self._nvml
        mode = self._asked(nvml.nvmlDeviceGetMigMode, gpu)
        if mode is None or mode[0] != nvml.NVML_DEVICE_MIG_ENABLE:
            return gpu
        return self._asked(nvml.nvmlDeviceGetMigDeviceHandleByIndex, gpu, 0) or gpu

    def _state(self, name: str, device: Any) -> DeviceState:
        nvml, asked = self._nvml, self._asked
        card = asked(nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle, device) or device
        memory = asked(nvml.nvmlDeviceGetMemoryInfo, device)
        rates = asked(nvml.nvmlDeviceGetUtilizationRates, device)
        milliwatts = asked(nvml.nvmlDeviceGetPowerUsage, card)
        return DeviceState(
            name,
            used_bytes=memory and memory.used,
            total_bytes=memory and memory.total,
            utilization=rates and rates.gpu / 100,
            temperature_celsius=asked(nvml.nvmlDeviceGetTemperature, card, nvml.NVML_TEMPERATURE_GPU),
            power_watts=milliwatts and milliwatts / 1000,
            memory_errors=asked(
                nvml.nvmlDeviceGetTotalEccErrors,
                card,
                nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
                nvml.NVML_VOLATILE_ECC,
            ),
        )

    def _asked(self, question: Callable[..., _Value], *arguments: Any) -> _Value | None:
        """Ask one thing; None where the driver does not know it, or may not tell."""
        try:
            return question(*arguments)
        except self._nvml.NVMLError:
            return None


class DeviceCollector(Collector):
    """Metrics of the GPUs.

    Args:
        states: Asked at every scrape.
    """

    def __init__(self, states: Callable[[], Iterable[DeviceState]]) -> None:
        self._states = states

    def collect(self) -> Iterator[Metric]:
        """Build the families from what the driver says now; none without a GPU."""
        memory = GaugeMetricFamily(
            "kotae_device_memory_bytes",
            "Memory of a GPU: `used` by all processes, and in `total`.",
            labels=("device", "kind"),
        )
        labels = ("device",)
        utilization = GaugeMetricFamily(
            "kotae_device_utilization_ratio",
            "Share of the last moments in which a GPU ran anything.",
            labels=labels,
        )
        temperature = GaugeMetricFamily(
            "kotae_device_temperature_celsius", "Temperature of a GPU.", labels=labels
        )
        power = GaugeMetricFamily("kotae_device_power_watts", "Power that a GPU takes.", labels=labels)
        errors = CounterMetricFamily(
            "kotae_device_memory_errors",
            "Errors of a GPU's memory that could not be corrected, since the driver was loaded.",
            labels=labels,
        )
        for state in self._states():
            for names, family, value in (
                ((state.device, "used"), memory, state.used_bytes),
                ((state.device, "total"), memory, state.total_bytes),
                ((state.device,), utilization, state.utilization),
                ((state.device,), temperature, state.temperature_celsius),
                ((state.device,), power, state.power_watts),
                ((state.device,), errors, state.memory_errors),
            ):
                if value is not None:
                    family.add_metric(names, value)
        yield from (family for family in (memory, utilization, temperature, power, errors) if family.samples)
