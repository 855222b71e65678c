"""ONNX Runtime behind a small class: one graph on one device.

The only module that imports onnxruntime. It says which devices can be used, picks threads, refuses a silent
fallback to the CPU, and turns ONNX Runtime's errors into ours. It knows nothing of batches or requests.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.cuda import driver as cuda
from service.engine.cuda.device_memory import CudaMemory
from service.engine.cuda.gpu_binding import Binding
from service.engine.runtime.memory import ArenaUse, OutOfMemory, failure_of
from service.engine.runtime.outputs import RunFailed, Stage, Staged
from service.engine.runtime.providers import (
    CUDA,
    TENSORRT,
    Device,
    GpuOptions,
    GpuProvider,
    Placed,
    has_heavy,
    heavy_elsewhere,
    providers_of,
    without_what_failed,
)
from service.engine.runtime.shape_buckets import Buckets
from service.errors import ModelRejected, StartFailed

try:
    import onnxruntime as ort
except ImportError as missing:
    raise StartFailed(
        "onnxruntime is not installed: install the extra for your device, "
        "`pip install 'kotae[cpu]'` or `pip install 'kotae[gpu]'`"
    ) from missing

__all__ = [
    "Device",
    "RunFailed",
    "Session",
    "TensorSpec",
    "choose_devices",
    "cuda_problem",
    "example",
    "gpu_names",
    "runtime_version",
]

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(bool)": "bool",
}

# Sessions made at the same time on a GPU have crashed (microsoft/onnxruntime issue 26610).
_ONE_AT_A_TIME = threading.Lock()

# Seen with 1.31 on the CPU: the fused kernel of addition and norm takes four times as long as the two by
# themselves, a fifth of an int8 text encoder's time.
_SLOWER_FUSIONS = ["SkipLayerNormFusion"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A graph input or output: its dtype and its shape, None where an axis is dynamic."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


def runtime_version() -> str:
    """Name the version of ONNX Runtime, whichever of its packages is installed."""
    return str(ort.__version__)


def cuda_problem(provider: GpuProvider = "cuda") -> str | None:
    """Tell why GPUs cannot be used, or load what they need.

    Args:
        provider: What is to run graphs on them.

    Returns:
        None where they can be used, else what is missing and how to get it.
    """
    if CUDA not in ort.get_available_providers():
        return _no_cuda_build()
    try:
        cuda.visible_gpus(_cuda_major())
        with redirect_stdout(StringIO()):  # it prints what it does not find; that is told below
            ort.preload_dlls()
        cuda.load_libraries(_cuda_major())
        if provider == "tensorrt":
            cuda.load_tensorrt()
    except cuda.CudaProblem as problem:
        return str(problem)
    return None


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


def gpu_names() -> tuple[str, ...]:
    """Name the GPUs that this process may use; `cuda:0` is the first one.

    Raises:
        StartFailed: There are none; the text says why.
    """
    try:
        return cuda.visible_gpus(_cuda_major())
    except cuda.CudaProblem as problem:
        raise StartFailed(str(problem)) from problem


def _cuda_major() -> int:
    """Give the major version of CUDA that this onnxruntime is built for."""
    return int(str(ort.cuda_version).partition(".")[0])


def choose_devices(wanted: str, provider: GpuProvider = "cuda") -> tuple[Device, ...]:
    """Resolve `auto`, `cpu`, `cuda` (every GPU) or `cuda:N`. Only `auto` may choose by itself.

    Args:
        wanted: The device.
        provider: What is to run graphs on GPUs.

    Raises:
        StartFailed: CUDA was asked for and cannot be used; the text names what is missing.
    """
    if wanted == "cpu":
        return (Device("cpu"),)
    problem = cuda_problem(provider)
    if problem and wanted == "auto":
        return (Device("cpu"),)
    if problem:
        raise StartFailed(f"device {wanted} was asked for, but {problem}")
    count = len(gpu_names())
    index = wanted.partition(":")[2]
    if not index:
        return tuple(Device("cuda", number) for number in range(count))
    if int(index) >= count:
        raise StartFailed(f"device {wanted} was asked for, but the last GPU here is cuda:{count - 1}")
    return (Device("cuda", int(index)),)


class Session:
    """One graph loaded on one device. One run at a time, by its lane's threads; on a GPU, another stages.

    Args:
        path: The ONNX file.
        device: Where to run it.
        threads: Threads of ONNX Runtime's pool, always explicit.
        spinning: Whether idle threads of the pool spin while the graph runs; pays only while the threads of
            all sessions that run at once fit the CPUs.
        gpu: How to use the device if it is a GPU.

    Attributes:
        placed: Which provider runs each node of the graph, as ONNX Runtime assigned them before fusing any.
        captures: Whether runs may be captured: it was asked for, and ONNX Runtime found that the graph has no
            control flow and nothing on the CPU but arithmetic of shapes.

    Raises:
        ModelRejected: The file is not a graph that loads, or some of it was silently moved to the CPU.
    """

    def __init__(
        self,
        path: Path,
        device: Device,
        *,
        threads: int = 1,
        spinning: bool = False,
        gpu: GpuOptions | None = None,
    ) -> None:
        gpu = gpu or GpuOptions()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads if device.kind == "cpu" else 1
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
        options.add_session_config_entry("session.force_spinning_stop", "1")  # never beside another's run
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        try:
            if device.kind == "cpu":
                self._session = _open(path, options, device, gpu)
            else:
                self._session, gpu = _open_on_gpu(path, options, device, gpu)
        except Exception as error:  # onnxruntime raises many unrelated classes here
            raise ModelRejected(f"{path.name} does not load: {_first_line(error)}") from error
        self.placed = tuple(
            Placed(part.ep_name, node.op_type, node.name)
            for part in self._session.get_provider_graph_assignment_info()
            for node in part.get_nodes()
        )
        self._refuse_fallback(device, gpu, path)
        self.device = device
        self.captures = gpu.cuda_graph
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())
        self._output_names = [spec.name for spec in self.outputs]
        # What was captured is replayed where it stood: nothing may be freed. TensorRT has its own memory.
        self._arena = None if gpu.cuda_graph or gpu.tensorrt else ArenaUse()
        self._shrinking = _shrinking(device)
        self._binding: Binding | None = None

    def bind(self, buckets: Buckets) -> None:
        """Run at addresses of the GPU that stay, and in few shapes, from now on."""
        index = self.device.index
        self._binding = Binding(
            self._session,
            self.inputs,
            self.outputs,
            buckets,
            lambda: CudaMemory(index),
            run_options=ort.RunOptions,
            captures=self.captures,
        )

    @property
    def stage(self) -> Stage | None:
        """What brings a batch to the device while another runs; None where nothing is copied."""
        return None if self._binding is None else partial(self._stage, self._binding)

    def _stage(self, binding: Binding, inputs: Mapping[str, NDArray[Any]]) -> Staged:
        batch = binding.stage(inputs)
        batch.options = self._options(inputs)
        return batch

    def _options(self, inputs: Mapping[str, NDArray[Any]]) -> Any:
        """Give the options of a run on these inputs: sometimes it is to end with giving memory back."""
        size_bytes = sum(array.nbytes for array in inputs.values())
        shrinks = self._arena is not None and self._arena.should_shrink(size_bytes)
        return self._shrinking if shrinks else None

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the graph once.

        Args:
            inputs: Arrays by input name, batch axis first.

        Returns:
            Arrays by output name, batch axis first.

        Raises:
            OutOfMemory: The batch does not fit the device.
            RunFailed: ONNX Runtime raised anything else.
        """
        try:
            if self._binding is not None:
                return self._binding.run(inputs)
            outputs = self._session.run(self._output_names, dict(inputs), self._options(inputs))
        except Exception as error:  # onnxruntime raises many unrelated classes here
            failure = failure_of(error)
            if isinstance(failure, OutOfMemory):
                self.shrink(inputs)
            raise failure from error
        return dict(zip(self._output_names, outputs, strict=True))

    def shrink(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        """Give back the memory that the first row of these inputs does not need, by running it."""
        if self._arena is None:
            return
        self._arena.forget()
        row = {name: array[:1] for name, array in inputs.items()}
        with suppress(Exception):  # it shrinks even if the run fails
            self._session.run(self._output_names, row, self._shrinking)

    def _refuse_fallback(self, device: Device, gpu: GpuOptions, path: Path) -> None:
        """Compare what runs the graph with what was asked for."""
        if device.kind == "cpu":
            return
        asked = f"{path.name} was asked to run on {device}"
        wanted = [CUDA] if gpu.tensorrt is None else [TENSORRT, CUDA]
        if missing := [name for name in wanted if name not in self._session.get_providers()]:
            raise ModelRejected(f"{asked}, but ONNX Runtime left out {' and '.join(missing)} (see stderr)")
        if not self.placed:
            raise ModelRejected(f"{asked}, but ONNX Runtime does not say what runs where")
        if elsewhere := heavy_elsewhere(self.placed, wanted):
            raise ModelRejected(f"{asked}, but ONNX Runtime placed these on the CPU: {elsewhere}")
        if gpu.tensorrt and not has_heavy(self.placed, TENSORRT) and has_heavy(self.placed, CUDA):
            raise ModelRejected(f"{asked} by TensorRT, which takes none of its heavy nodes")


def _open(path: Path, options: Any, device: Device, gpu: GpuOptions) -> Any:
    """Make ONNX Runtime's session; without `enable_fallback=0` it would move to the CPU by itself."""
    return ort.InferenceSession(
        str(path),
        options,
        providers=providers_of(device, gpu),
        disabled_optimizers=_SLOWER_FUSIONS if device.kind == "cpu" else [],
        enable_fallback=0,
    )


def _open_on_gpu(path: Path, options: Any, device: Device, gpu: GpuOptions) -> tuple[Any, GpuOptions]:
    """Make the session with as much of the options as the graph allows, and say with which."""
    with _ONE_AT_A_TIME:
        while True:
            try:
                return _open(path, options, device, gpu), gpu
            except Exception as error:
                less = without_what_failed(gpu, str(error))
                if less is None:
                    raise
                gpu = less


def _shrinking(device: Device) -> Any:
    """Make the options of a run at whose end the arenas give back what nothing uses."""
    options = ort.RunOptions()
    arenas = "cpu:0" if device.kind == "cpu" else f"gpu:{device.index};cpu:0"
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", arenas)
    return options


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
