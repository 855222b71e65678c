"""What is missing of CUDA is told exactly, whichever part it is. The driver here is a stand-in."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from service.engine.cuda.driver import (
    DRIVER,
    CudaProblem,
    load_libraries,
    load_tensorrt,
    tensorrt_version,
    visible_gpus,
)


@dataclass
class Driver:
    """Answers as NVIDIA's driver does: results by number, values through pointers."""

    gpus: tuple[str, ...] = ("NVIDIA H200",)
    version: int = 13000
    init: int = 0

    def cuInit(self, flags: int) -> int:
        return self.init

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = self.version
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = len(self.gpus)
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device._obj.value = 100 + index
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: ctypes.c_int) -> int:
        name.value = self.gpus[device.value - 100].encode()
        return 0

    def cuGetErrorString(self, result: int, text: Any) -> int:
        text._obj.value = b"system not yet initialized"
        return 0


def loading(driver: Driver | None) -> Callable[[str], Any]:
    def load(name: str) -> Any:
        if driver is None or name != DRIVER:
            raise OSError(f"{name}: cannot open shared object file")
        return driver

    return load


def test_every_gpu_that_the_driver_shows_is_named_in_its_order() -> None:
    driver = Driver(gpus=("NVIDIA H200", "NVIDIA L4"))
    assert visible_gpus(13, loading(driver)) == ("NVIDIA H200", "NVIDIA L4")


@pytest.mark.parametrize(
    ("driver", "text"),
    [
        (None, r"the NVIDIA driver \(libcuda.so.1\) is not on this machine"),
        (Driver(gpus=()), "the NVIDIA driver finds no GPU"),
        (Driver(init=100), "the NVIDIA driver finds no GPU"),
        (Driver(init=803), "the NVIDIA driver fails: cuInit gave 803, system not yet initialized"),
        (Driver(version=12040), r"supports CUDA 12\.4 at most and this onnxruntime needs CUDA 13: update"),
    ],
)
def test_what_the_driver_lacks_is_told(driver: Driver | None, text: str) -> None:
    with pytest.raises(CudaProblem, match=text):
        visible_gpus(13, loading(driver))


def test_a_driver_newer_than_onnxruntime_needs_is_fine() -> None:
    assert visible_gpus(13, loading(Driver(version=14020))) == ("NVIDIA H200",)


def test_gpus_hidden_by_the_environment_are_told_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(CudaProblem, match=r"finds no GPU \(CUDA_VISIBLE_DEVICES is ''\)"):
        visible_gpus(13, loading(Driver(init=100)))


def _without(missing: str) -> Callable[[str], Any]:
    def load(name: str) -> Any:
        if name.startswith(missing):
            raise OSError(f"{name}: cannot open shared object file")
        return object()

    return load


@pytest.mark.parametrize(
    ("missing", "said"), [("libcudnn", r"libcudnn\.so\.9"), ("libcublasLt", r"libcublasLt\.so\.13")]
)
def test_a_missing_library_is_named_with_the_extra_that_has_it(missing: str, said: str) -> None:
    with pytest.raises(CudaProblem, match=rf"{said} does not load; .*pip install 'kotae\[gpu\]'"):
        load_libraries(13, _without(missing))
    load_libraries(13, _without("libnothing"))


def test_missing_tensorrt_is_named_with_the_extra_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")  # else it would be set for the tests that follow
    with pytest.raises(CudaProblem, match=r"libnvinfer\.so\.10 .*'kotae\[tensorrt\]'"):
        load_tensorrt(_without("libnvinfer"))
    load_tensorrt(_without("libnothing"))


def test_the_version_of_tensorrt_is_what_its_library_says() -> None:
    class Library:
        def getInferLibVersion(self) -> int:
            return 101601

    assert tensorrt_version(lambda name: Library()) == "10.16.1"
