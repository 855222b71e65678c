"""The GPUs that ONNX Runtime can use in this process, or the reason why it can use none."""

from __future__ import annotations

from contextlib import redirect_stdout
from importlib import metadata
from io import StringIO

import onnxruntime as ort

from service.engine.cuda import driver
from service.engine.cuda.providers import CUDA, GpuProvider
from service.errors import StartFailed


def cuda_problem(provider: GpuProvider = "cuda") -> str | None:
    """Load the libraries that GPUs need.

    Args:
        provider: What is to run graphs on them.

    Returns:
        None if GPUs can be used, else what is missing and how to install it.
    """
    if CUDA not in ort.get_available_providers():
        return _no_cuda_build()
    try:
        driver.visible_gpus(_cuda_major())
        with redirect_stdout(StringIO()):  # it prints which libraries it misses; the next line reports them
            ort.preload_dlls()
        driver.load_libraries(_cuda_major())
        if provider == "tensorrt":
            driver.load_tensorrt()
    except driver.CudaProblem as problem:
        return str(problem)
    return None


def gpu_names() -> tuple[str, ...]:
    """Return the names of the GPUs that this process may use; `cuda:0` is the first one.

    Raises:
        StartFailed: There are none; the text says why.
    """
    try:
        return driver.visible_gpus(_cuda_major())
    except driver.CudaProblem as problem:
        raise StartFailed(str(problem)) from problem


def _no_cuda_build() -> str:
    problem = "this onnxruntime has no CUDA provider; "
    packages = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
    if len(packages) > 1:
        names = " ".join(packages)
        return f"{problem}two packages bring it: pip uninstall {names}, then pip install 'kotae[gpu]'"
    return f"{problem}install the gpu extra: pip install 'kotae[gpu]'"


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _cuda_major() -> int:
    """Return the major version of CUDA that this onnxruntime is built for."""
    return int(str(ort.cuda_version).partition(".")[0])
