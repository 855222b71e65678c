"""Which devices a setting means, and which session runs on them."""

from __future__ import annotations

import pytest

from service.engine.devices import Device, choose_devices
from service.errors import StartFailed


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.engine.devices.cuda_problem", lambda provider="cuda": None)
    monkeypatch.setattr("service.engine.devices.gpu_names", lambda: ("NVIDIA H200", "NVIDIA H200"))


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("wanted", "devices"),
    [
        ("auto", ["cuda:0", "cuda:1"]),
        ("cuda", ["cuda:0", "cuda:1"]),
        ("cuda:1", ["cuda:1"]),
        ("cpu", ["cpu"]),
    ],
)
def test_cuda_is_every_gpu_and_a_number_one_of_them(wanted: str, devices: list[str]) -> None:
    assert [str(device) for device in choose_devices(wanted)] == devices


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_beyond_the_last_one_is_refused() -> None:
    with pytest.raises(StartFailed, match="device cuda:2 was asked for, but the last GPU here is cuda:1"):
        choose_devices("cuda:2")


def test_only_auto_may_choose_the_cpu_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.engine.devices.cuda_problem", lambda provider: f"{provider} is not there")
    assert choose_devices("auto", "tensorrt") == (Device("cpu"),)
    with pytest.raises(StartFailed, match="device cuda:0 was asked for, but tensorrt is not there"):
        choose_devices("cuda:0", "tensorrt")


def test_cuda_is_not_asked_about_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.engine.devices.cuda_problem", lambda *_: pytest.fail("was asked"))
    assert choose_devices("cpu") == (Device("cpu"),)
