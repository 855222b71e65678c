"""Metrics of the GPUs, read from NVIDIA's management library (NVML) at each scrape.

The process that is scraped reads them: they belong to the device, not to a process. Values that NVML does not
provide are left out; without NVML there are no metrics of GPUs, and nothing fails.
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

_LOCK_TIMEOUT_SECONDS = 1.0  # another scrape may be blocked by a broken driver

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeviceState:
    """State of one GPU, or of this process's MIG instance; None for values that the driver does not provide.

    Attributes:
        device: Name as in the other metrics, such as `cuda:0`.
        used_bytes: Memory used by all processes, the driver included.
        utilization: Share of the last sample period in which a kernel ran, 0 to 1.
        memory_errors: Uncorrectable errors since the driver was loaded.
    """

    device: str
    used_bytes: int | None = None
    total_bytes: int | None = None
    utilization: float | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None
    memory_errors: int | None = None


def this_process_devices() -> Devices:
    """Return the GPUs that this process may use."""
    return Devices(pynvml, os.environ.get("CUDA_VISIBLE_DEVICES"))


class Devices:
    """The GPUs that CUDA makes visible to this process; `cuda:0` is the first one.

    CUDA and the driver number GPUs of one type alike; for several types set `CUDA_DEVICE_ORDER=PCI_BUS_ID`.

    Args:
        nvml: The module `pynvml`; None if it is not installed.
        visible: `CUDA_VISIBLE_DEVICES`, numbers or identifiers; None means every GPU.
    """

    def __init__(self, nvml: Any, visible: str | None) -> None:
        self._nvml = nvml
        self._visible = visible
        self._opened = False
        self._lock = threading.Lock()

    def states(self) -> list[DeviceState]:
        """Return the state of every GPU; empty without a driver, or while another call is blocked."""
        if self._nvml is None or not self._lock.acquire(timeout=_LOCK_TIMEOUT_SECONDS):
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
                yield self._instance_of(nvml.nvmlDeviceGetHandleByIndex(index))
            return
        for name in self._visible.split(","):
            if name.strip().isdecimal():
                yield self._instance_of(nvml.nvmlDeviceGetHandleByIndex(int(name)))
            elif name.strip().startswith(("GPU-", "MIG-")):
                yield self._instance_of(nvml.nvmlDeviceGetHandleByUUID(name.strip()))
            else:  # like CUDA, ignore everything after an invalid name
                return

    def _instance_of(self, gpu: Any) -> Any:
        """Return the first MIG instance of a partitioned GPU, which CUDA uses; else the GPU."""
        nvml = self._nvml
        mode = self._query(nvml.nvmlDeviceGetMigMode, gpu)
        if mode is None or mode[0] != nvml.NVML_DEVICE_MIG_ENABLE:
            return gpu
        return self._query(nvml.nvmlDeviceGetMigDeviceHandleByIndex, gpu, 0) or gpu

    def _state(self, name: str, device: Any) -> DeviceState:
        nvml, query = self._nvml, self._query
        card = query(nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle, device) or device
        memory = query(nvml.nvmlDeviceGetMemoryInfo, device)
        rates = query(nvml.nvmlDeviceGetUtilizationRates, device)
        milliwatts = query(nvml.nvmlDeviceGetPowerUsage, card)
        return DeviceState(
            name,
            used_bytes=memory and memory.used,
            total_bytes=memory and memory.total,
            utilization=rates and rates.gpu / 100,
            temperature_celsius=query(nvml.nvmlDeviceGetTemperature, card, nvml.NVML_TEMPERATURE_GPU),
            power_watts=milliwatts and milliwatts / 1000,
            memory_errors=query(
                nvml.nvmlDeviceGetTotalEccErrors,
                card,
                nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
                nvml.NVML_VOLATILE_ECC,
            ),
        )

    def _query(self, function: Callable[..., _Value], *arguments: Any) -> _Value | None:
        """Return the result of an NVML function; None if it is not supported or not permitted."""
        try:
            return function(*arguments)
        except self._nvml.NVMLError:
            return None


class DeviceCollector(Collector):
    """Metrics of the GPUs.

    Args:
        states: Returns the state of every GPU; called at each scrape.
    """

    def __init__(self, states: Callable[[], Iterable[DeviceState]]) -> None:
        self._states = states

    def collect(self) -> Iterator[Metric]:
        """Return the metrics of the current state; none without a GPU."""
        memory = GaugeMetricFamily(
            "kotae_device_memory_bytes",
            "Memory of a GPU: `used` by all processes, and `total`.",
            labels=("device", "kind"),
        )
        labels = ("device",)
        utilization = GaugeMetricFamily(
            "kotae_device_utilization_ratio",
            "Share of the last sample period in which a GPU ran a kernel.",
            labels=labels,
        )
        temperature = GaugeMetricFamily(
            "kotae_device_temperature_celsius", "Temperature of a GPU.", labels=labels
        )
        power = GaugeMetricFamily("kotae_device_power_watts", "Power draw of a GPU.", labels=labels)
        errors = CounterMetricFamily(
            "kotae_device_memory_errors",
            "Uncorrectable memory errors of a GPU since the driver was loaded.",
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
