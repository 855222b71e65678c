"""ONNX Runtime behind a small class: one graph on one device.

The only module that imports onnxruntime. It picks providers and threads, refuses a silent fallback
to the CPU, and turns ONNX Runtime's errors into ours. It knows nothing of batches or requests.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import KotaeError, ModelRejected, StartFailed

try:
    import onnxruntime as ort
except ImportError as missing:
    raise StartFailed(
        "onnxruntime is not installed: install the extra for your device, "
        "`pip install 'kotae[cpu]'` or `pip install 'kotae[gpu]'`"
    ) from missing

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(bool)": "bool",
}


# Seen with 1.31 on the CPU: the fused kernel of addition and norm takes four times as long as the two by
# themselves, a fifth of an int8 text encoder's time.
_SLOWER_FUSIONS = ["SkipLayerNormFusion"]


class RunFailed(KotaeError):
    """A run of the graph raised; the text is ONNX Runtime's."""


@dataclass(frozen=True, slots=True)
class Device:
    """A place where sessions run: a lane of the CPU, or one CUDA device."""

    kind: str
    index: int = 0

    def __str__(self) -> str:
        return "cpu" if self == Device("cpu") else f"{self.kind}:{self.index}"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A graph input or output: its dtype and its shape, None where an axis is dynamic."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


def runtime_version() -> str:
    """Name the version of ONNX Runtime, whichever of its packages is installed."""
    return str(ort.__version__)


def cuda_problem() -> str | None:
    """Tell why CUDA cannot be used.

    Returns:
        None where it can be used, else what is missing and how to get it.
    """
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return "this onnxruntime has no CUDA provider; install the gpu extra: pip install 'kotae[gpu]'"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "the NVIDIA driver (libcuda.so.1) is not on this machine"
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value < 1:
        return "the NVIDIA driver finds no GPU"
    ort.preload_dlls()
    return None


def choose_device(wanted: str) -> Device:
    """Resolve `auto`, `cpu`, `cuda` or `cuda:N`. Only `auto` may choose by itself.

    Raises:
        StartFailed: CUDA was asked for and cannot be used; the text names what is missing.
    """
    if wanted == "cpu":
        return Device("cpu")
    problem = cuda_problem()
    if wanted == "auto":
        return Device("cpu") if problem else Device("cuda")
    if problem:
        raise StartFailed(f"device {wanted} was asked for, but {problem}")
    return Device("cuda", int(wanted.partition(":")[2] or 0))


class Session:
    """One graph loaded on one device. Not for concurrent use: it belongs to its lane's thread.

    Args:
        path: The ONNX file.
        device: Where to run it.
        threads: Threads of ONNX Runtime's pool, always explicit.
        spinning: Whether idle threads of the pool spin while the graph runs; pays only while the threads of
            all sessions that run at once fit the CPUs.

    Raises:
        ModelRejected: The file is not a graph that loads, or the device was silently changed.
    """

    def __init__(self, path: Path, device: Device, *, threads: int = 1, spinning: bool = False) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads if device.kind == "cpu" else 1
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
        options.add_session_config_entry("session.force_spinning_stop", "1")  # never beside another's run
        try:
            self._session = ort.InferenceSession(
                str(path),
                options,
                providers=_providers(device),
                disabled_optimizers=_SLOWER_FUSIONS if device.kind == "cpu" else [],
            )
        except Exception as error:  # onnxruntime raises many unrelated classes here
            raise ModelRejected(f"{path.name} does not load: {_first_line(error)}") from error
        self._refuse_fallback(device, path)
        self.device = device
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())
        self._output_names = [spec.name for spec in self.outputs]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the graph once.

        Args:
            inputs: Arrays by input name, batch axis first.

        Returns:
            Arrays by output name, batch axis first.

        Raises:
            RunFailed: ONNX Runtime raised.
        """
        try:
            outputs = self._session.run(self._output_names, dict(inputs))
        except Exception as error:  # onnxruntime raises many unrelated classes here
            raise RunFailed(_first_line(error)) from error
        return dict(zip(self._output_names, outputs, strict=True))

    def _refuse_fallback(self, device: Device, path: Path) -> None:
        if device.kind != "cpu" and "CUDAExecutionProvider" not in self._session.get_providers():
            raise ModelRejected(f"{path.name} was asked to run on {device}, but ONNX Runtime chose the CPU")


def _providers(device: Device) -> list[Any]:
    if device.kind == "cpu":
        return ["CPUExecutionProvider"]
    cuda = {"device_id": device.index, "cudnn_conv_algo_search": "HEURISTIC"}
    return [("CUDAExecutionProvider", cuda), "CPUExecutionProvider"]


def _spec(node: Any) -> TensorSpec:
    shape = tuple(axis if isinstance(axis, int) else None for axis in node.shape)
    return TensorSpec(node.name, _DTYPES.get(node.type, node.type), shape)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def example(spec: TensorSpec, items: int, dynamic_size: int = 1) -> NDArray[Any]:
    """Make an all-zero array that fits an input.

    Args:
        spec: The input.
        items: Size of the batch axis.
        dynamic_size: Size of every other dynamic axis.
    """
    shape = (items, *(dynamic_size if axis is None else axis for axis in spec.shape[1:]))
    return np.zeros(shape, dtype=spec.dtype)
