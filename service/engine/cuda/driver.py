"""Checks of CUDA: the driver, the GPUs that it shows to this process, the shared libraries.

Each is checked before a session is made, because ONNX Runtime only says that its provider did not load. The
names are those of NVIDIA's driver API (cuda.h). The driver itself reads `CUDA_VISIBLE_DEVICES`.
"""

from __future__ import annotations

import ctypes
import importlib
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

DRIVER = "libcuda.so.1"
_NAME_BYTES = 256

Load = Callable[[str], Any]


class CudaProblem(Exception):
    """No GPU can be used; the text says why, and what to install or update."""


def visible_gpus(cuda_major: int, load: Load = ctypes.CDLL) -> tuple[str, ...]:
    """Return the names of the GPUs that this process may use. The first is `cuda:0`.

    Args:
        cuda_major: Major version of CUDA that the driver must support.
        load: Opens a shared library by name.

    Raises:
        CudaProblem: The driver is missing, fails, is too old, or shows no GPU.
    """
    try:
        driver = load(DRIVER)
    except OSError as error:
        raise CudaProblem(f"the NVIDIA driver ({DRIVER}) is not on this machine") from error
    _check(driver, "cuInit", driver.cuInit(0))
    version = ctypes.c_int()
    _check(driver, "cuDriverGetVersion", driver.cuDriverGetVersion(ctypes.byref(version)))
    supported = f"{version.value // 1000}.{version.value % 1000 // 10}"
    if version.value // 1000 < cuda_major:
        raise CudaProblem(
            f"the NVIDIA driver supports CUDA {supported} at most and this onnxruntime needs "
            f"CUDA {cuda_major}: update the driver"
        )
    count = ctypes.c_int()
    _check(driver, "cuDeviceGetCount", driver.cuDeviceGetCount(ctypes.byref(count)))
    if count.value < 1:
        raise CudaProblem(_no_gpu())
    return tuple(_name(driver, index) for index in range(count.value))


def load_libraries(cuda_major: int, load: Load = ctypes.CDLL) -> None:
    """Load the libraries that ONNX Runtime's CUDA provider needs.

    Without cuDNN the provider 1.31 loads, and fails at the first convolution; without another one it does not
    load.

    Raises:
        CudaProblem: A library is missing.
    """
    toolkit = [f"lib{name}.so.{cuda_major}" for name in ("cublasLt", "cublas", "cudart")]
    for name in (*toolkit, "libcurand.so.10", "libcudnn.so.9"):
        _load(name, load, "gpu")


def load_tensorrt(load: Load = ctypes.CDLL) -> None:
    """Load TensorRT 10, which ONNX Runtime's TensorRT provider 1.31 needs.

    Switch TF32 off for its engines: this variable of the environment is the only way to do so.

    Raises:
        CudaProblem: A library is missing.
    """
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    with suppress(ImportError, OSError):
        importlib.import_module("tensorrt_libs")  # loads its libraries
    for name in ("libnvinfer.so.10", "libnvonnxparser.so.10"):
        _load(name, load, "tensorrt")


def tensorrt_version(load: Load = ctypes.CDLL) -> str:
    """Return the version of TensorRT, which must be loaded. Engines of other versions cannot be read."""
    number = load("libnvinfer.so.10").getInferLibVersion()
    return f"{number // 10_000}.{number // 100 % 100}.{number % 100}"


def _load(name: str, load: Load, extra: str) -> None:
    try:
        load(name)
    except OSError as error:
        raise CudaProblem(
            f"{name} does not load; the {extra} extra has it: pip install 'kotae[{extra}]'"
        ) from error


def _name(driver: Any, index: int) -> str:
    device, name = ctypes.c_int(), ctypes.create_string_buffer(_NAME_BYTES)
    _check(driver, "cuDeviceGet", driver.cuDeviceGet(ctypes.byref(device), index))
    _check(driver, "cuDeviceGetName", driver.cuDeviceGetName(name, _NAME_BYTES, device))
    return name.value.decode(errors="replace")


def _check(driver: Any, call: str, result: int) -> None:
    if result == 0:
        return
    if result == 100:  # CUDA_ERROR_NO_DEVICE
        raise CudaProblem(_no_gpu())
    text = ctypes.c_char_p()
    driver.cuGetErrorString(result, ctypes.byref(text))
    reason = (text.value or b"unknown error").decode(errors="replace")
    raise CudaProblem(f"the NVIDIA driver fails: {call} gave {result}, {reason}")


def _no_gpu() -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = "" if visible is None else f" (CUDA_VISIBLE_DEVICES is {visible!r})"
    return f"the NVIDIA driver finds no GPU{chosen}"
