"""The GPUs' metrics, with a stand-in for NVIDIA's module; one test asks a real driver where there is one."""

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


class StandIn:
    """NVIDIA's module for two GPUs; `forbidden` functions raise, as the driver does what it does not know.

    A device is its name. `parts` are the MIG instances by GPU.
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


def test_every_gpu_is_told_of_in_base_units() -> None:
    nvml = StandIn()
    devices = Devices(nvml, None)
    first, second = devices.states()
    assert first == DeviceState("cuda:0", 5, 100, 0.25, 61, 350.0, 3)
    assert (second.device, second.power_watts) == ("cuda:1", 0)
    assert devices.states() == [first, second]
    assert nvml.opened == 1


def test_devices_are_numbered_as_cuda_shows_them() -> None:
    powers = [state.power_watts for state in Devices(StandIn(), "1,GPU-a").states()]
    assert powers == [0, 350.0]
    assert Devices(StandIn(), "").states() == []
    assert len(Devices(StandIn(), " GPU-b ,-1,0").states()) == 1


def test_a_part_of_a_gpu_has_its_own_memory_and_its_card_s_temperature() -> None:
    nvml = StandIn("nvmlDeviceGetUtilizationRates", parts={"GPU-a": ["MIG-one", "MIG-three"]})
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
def test_what_the_driver_does_not_tell_is_left_out_and_the_rest_stays(
    forbidden: str, missing: set[str]
) -> None:
    def told(*forbidden: str) -> set[str]:
        collector = DeviceCollector(Devices(StandIn(*forbidden), None).states)
        return {family.name for family in collector.collect()}

    assert told() - told(forbidden) == missing


@pytest.mark.parametrize("nvml", [None, StandIn("nvmlInit")], ids=["no module", "no driver"])
def test_without_a_driver_nothing_is_told_and_nobody_asks_again(nvml: StandIn | None) -> None:
    devices = Devices(nvml, None)
    assert devices.states() == []
    if nvml is not None:
        nvml.forbidden.clear()
    assert list(DeviceCollector(devices.states).collect()) == []


def test_a_gpu_that_is_lost_is_asked_for_again() -> None:
    nvml = StandIn("nvmlDeviceGetHandleByIndex")
    devices = Devices(nvml, None)
    assert devices.states() == []
    nvml.forbidden.clear()
    assert len(devices.states()) == 2


def test_a_driver_that_does_not_answer_holds_up_one_scrape_and_not_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.telemetry.devices._PATIENCE_SECONDS", 0.01)
    nvml, asked, answer = StandIn(), threading.Event(), threading.Event()

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


def test_a_scrape_holds_each_device_s_numbers() -> None:
    metrics = Metrics()
    metrics.watch_devices(Devices(StandIn(), "0").states)
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
def test_a_real_driver_tells_of_memory() -> None:
    states = this_process_devices().states()
    assert states
    assert all(0 < (state.used_bytes or 0) < (state.total_bytes or 0) for state in states)
