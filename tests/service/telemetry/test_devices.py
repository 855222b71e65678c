"""Metrics of the GPUs, with a fake NVML; one test uses a real driver if there is one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.telemetry.devices import DeviceCollector, Devices, DeviceState, this_process_devices
from service.telemetry.metrics import Metrics


class NVMLError(Exception):
    pass


class FakeNvml:
    """NVML with two GPUs; the functions in `forbidden` raise, as unsupported ones do.

    A device is represented by its name. `parts` are the MIG instances by GPU.
    """

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
    NVML_VOLATILE_ECC = 0
    NVML_DEVICE_MIG_ENABLE = 1

    def __init__(self, *forbidden: str, parts: dict[str, list[str]] | None = None) -> None:
        self.forbidden = set(forbidden)
        self.parts = parts or {}
        self.opened = 0
        self.answers: dict[str, Callable[..., Any]] = {
            "nvmlInit": self._open,
            "nvmlDeviceGetCount": lambda: 2,
            "nvmlDeviceGetHandleByIndex": lambda index: ["GPU-a", "GPU-b"][index],
            "nvmlDeviceGetHandleByUUID": lambda name: name,
            "nvmlDeviceGetMigMode": lambda gpu: [int(gpu in self.parts), 0],
            "nvmlDeviceGetMigDeviceHandleByIndex": lambda gpu, index: self.parts[gpu][index],
            "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": self._card,
            "nvmlDeviceGetMemoryInfo": lambda device: SimpleNamespace(used=len(device), total=100),
            "nvmlDeviceGetUtilizationRates": lambda device: SimpleNamespace(gpu=25, memory=10),
            "nvmlDeviceGetPowerUsage": lambda card: 350_000 if card == "GPU-a" else 0,
            "nvmlDeviceGetTemperature": lambda card, sensor: 61,
            "nvmlDeviceGetTotalEccErrors": lambda card, kind, counter: 3,
        }

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def function(*arguments: Any) -> Any:
            if name in self.forbidden:
                raise NVMLError(name)
            return self.answers[name](*arguments)

        return function

    def _open(self) -> None:
        self.opened += 1

    def _card(self, part: str) -> str:
        for gpu, parts in self.parts.items():
            if part in parts:
                return gpu
        raise NVMLError("not a part")


def test_every_gpu_is_reported_in_base_units() -> None:
    nvml = FakeNvml()
    devices = Devices(nvml, None)
    first, second = devices.states()
    assert first == DeviceState("cuda:0", 5, 100, 0.25, 61, 350.0, 3)
    assert (second.device, second.power_watts) == ("cuda:1", 0)
    assert devices.states() == [first, second]
    assert nvml.opened == 1


def test_devices_are_numbered_as_in_cuda() -> None:
    powers = [state.power_watts for state in Devices(FakeNvml(), "1,GPU-a").states()]
    assert powers == [0, 350.0]
    assert Devices(FakeNvml(), "").states() == []
    assert len(Devices(FakeNvml(), " GPU-b ,-1,0").states()) == 1


def test_a_mig_instance_has_its_own_memory_and_its_gpus_temperature() -> None:
    nvml = FakeNvml("nvmlDeviceGetUtilizationRates", parts={"GPU-a": ["MIG-one", "MIG-three"]})
    first, _ = Devices(nvml, None).states()
    assert first == DeviceState("cuda:0", 7, 100, None, 61, 350.0, 3)
    (named,) = Devices(nvml, "MIG-three").states()
    assert (named.used_bytes, named.temperature_celsius, named.power_watts) == (9, 61, 350.0)


@pytest.mark.parametrize(
    ("forbidden", "missing"),
    [
        ("nvmlDeviceGetMemoryInfo", {"kotae_device_memory_bytes"}),
        ("nvmlDeviceGetUtilizationRates", {"kotae_device_utilization_ratio"}),
        ("nvmlDeviceGetTemperature", {"kotae_device_temperature_celsius"}),
        ("nvmlDeviceGetPowerUsage", {"kotae_device_power_watts"}),
        ("nvmlDeviceGetTotalEccErrors", {"kotae_device_memory_errors"}),
        ("nvmlDeviceGetMigMode", set()),
    ],
)
def test_values_that_the_driver_does_not_provide_are_left_out(forbidden: str, missing: set[str]) -> None:
    def told(*forbidden: str) -> set[str]:
        collector = DeviceCollector(Devices(FakeNvml(*forbidden), None).states)
        return {family.name for family in collector.collect()}

    assert told() - told(forbidden) == missing


@pytest.mark.parametrize("nvml", [None, FakeNvml("nvmlInit")], ids=["no module", "no driver"])
def test_without_a_driver_nothing_is_reported_and_nothing_is_retried(nvml: FakeNvml | None) -> None:
    devices = Devices(nvml, None)
    assert devices.states() == []
    if nvml is not None:
        nvml.forbidden.clear()
    assert list(DeviceCollector(devices.states).collect()) == []


def test_a_lost_gpu_is_queried_again() -> None:
    nvml = FakeNvml("nvmlDeviceGetHandleByIndex")
    devices = Devices(nvml, None)
    assert devices.states() == []
    nvml.forbidden.clear()
    assert len(devices.states()) == 2


def test_a_driver_that_hangs_blocks_one_scrape_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.telemetry.devices._LOCK_TIMEOUT_SECONDS", 0.01)
    nvml, asked, answer = FakeNvml(), threading.Event(), threading.Event()

    def count() -> int:
        asked.set()
        assert answer.wait(20)
        return 2

    nvml.answers["nvmlDeviceGetCount"] = count
    devices = Devices(nvml, None)
    held = threading.Thread(target=devices.states)
    held.start()
    try:
        assert asked.wait(20)
        assert devices.states() == []
    finally:
        answer.set()
        held.join()
    assert len(devices.states()) == 2


def test_a_scrape_has_the_values_of_each_device() -> None:
    metrics = Metrics()
    metrics.watch_devices(Devices(FakeNvml(), "0").states)
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
        if sample.name.startswith("kotae_device")
    }
    assert samples == {
        ("kotae_device_memory_bytes", "cuda:0", "used"): 5,
        ("kotae_device_memory_bytes", "cuda:0", "total"): 100,
        ("kotae_device_utilization_ratio", "cuda:0"): 0.25,
        ("kotae_device_temperature_celsius", "cuda:0"): 61,
        ("kotae_device_power_watts", "cuda:0"): 350,
        ("kotae_device_memory_errors_total", "cuda:0"): 3,
    }


@pytest.mark.gpu
def test_a_real_driver_reports_memory() -> None:
    states = this_process_devices().states()
    assert states
    assert all(0 < (state.used_bytes or 0) < (state.total_bytes or 0) for state in states)
