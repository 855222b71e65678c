"""What is missing for GPUs is named, and nothing is printed."""

from __future__ import annotations

import sys

import onnxruntime as ort
import pytest

from service.engine.cuda.available_gpus import cuda_problem
from service.engine.cuda.driver import CudaProblem
from service.engine.cuda.providers import CPU, CUDA


def test_two_packages_that_overwrite_each_other_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    monkeypatch.setattr("importlib.metadata.version", lambda package: "1.31.1")
    assert "pip uninstall onnxruntime onnxruntime-gpu, then" in (cuda_problem() or "")


def test_an_onnxruntime_for_the_cpu_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    assert (cuda_problem() or "").endswith("install the gpu extra: pip install 'kotae[gpu]'")


@pytest.fixture
def onnxruntime_with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(ort, "cuda_version", "13.0", raising=False)
    monkeypatch.setattr("service.engine.cuda.driver.visible_gpus", lambda major: ("NVIDIA H200",))


@pytest.mark.usefixtures("onnxruntime_with_cuda")
def test_what_is_missing_is_told_and_nothing_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load_libraries(major: int) -> None:
        raise CudaProblem(f"libcudnn.so.9 of CUDA {major} does not load")

    def preload_dlls() -> None:
        sys.stdout.write("Failed to load libcudnn.so.9")

    monkeypatch.setattr(ort, "preload_dlls", preload_dlls, raising=False)
    monkeypatch.setattr("service.engine.cuda.driver.load_libraries", load_libraries)
    assert cuda_problem() == "libcudnn.so.9 of CUDA 13 does not load"
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("onnxruntime_with_cuda")
def test_tensorrt_is_looked_for_only_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_tensorrt() -> None:
        raise CudaProblem("libnvinfer.so.10 does not load")

    monkeypatch.setattr(ort, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr("service.engine.cuda.driver.load_libraries", lambda major: None)
    monkeypatch.setattr("service.engine.cuda.driver.load_tensorrt", load_tensorrt)
    assert cuda_problem() is None
    assert cuda_problem("tensorrt") == "libnvinfer.so.10 does not load"
