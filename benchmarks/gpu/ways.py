"""Ways to run a graph with bare ONNX Runtime: provider, precision, place of the data, CUDA graph or not.

The service is compared with this limit, so it uses nothing of the service but the check for GPUs.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.engine.devices import cuda_problem

Arrays = Mapping[str, NDArray[Any]]

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_NAMES = {"cpu": "CPU", "cuda": "CUDA", "tensorrt": "TensorRT"}
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
_WARM_UPS = 3  # the first runs choose kernels, allocate, and record a CUDA graph


class Unavailable(Exception):
    """This machine cannot run a graph this way; the text says why."""


class OutOfMemory(Exception):
    """The batch does not fit the device."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way to run a graph.

    Attributes:
        bound: Whether inputs and outputs are on the device; else they are NumPy arrays, copied at each run.
        graph: Whether all kernels are launched as one recorded CUDA graph.
    """

    provider: Literal["cpu", "cuda", "tensorrt"]
    precision: str
    bound: bool = True
    graph: bool = False

    def __str__(self) -> str:
        how = "CUDA graph" if self.graph else "bound" if self.bound else "plain"
        return f"{_NAMES[self.provider]} {self.precision}, {how}"

    @property
    def problem(self) -> str | None:
        """Why this machine cannot do it, as far as is known before the session is made; else None."""
        if self.provider == "cpu":
            return "CUDA graphs need CUDA" if self.graph else None
        return cuda_problem(self.provider)


class Bare:
    """A graph that runs one way on the same batch, repeatedly.

    Args:
        path: The ONNX file.
        inputs: The batch, by input name.
        threads: Threads on the CPU.

    Raises:
        Unavailable: The graph does not load or run this way.
        OutOfMemory: The batch is too large.
    """

    def __init__(self, path: Path, way: Way, inputs: Arrays, threads: int = 1) -> None:
        if problem := way.problem:
            raise Unavailable(problem)
        self.items = len(next(iter(inputs.values())))
        self._inputs = dict(inputs)
        self._session = _session(path, way, inputs, threads)
        self._binding = self._bind(way) if way.bound else None
        self._warm_up()

    def run(self) -> None:
        """Run the batch once; return when it is done."""
        if self._binding is None:
            self._session.run(None, self._inputs)
        else:
            self._session.run_with_iobinding(self._binding)

    def outputs(self) -> list[NDArray[Any]]:
        """Run once and return the outputs."""
        if self._binding is None:
            return list(self._session.run(None, self._inputs))
        self.run()
        return list(self._binding.copy_outputs_to_cpu())

    def rate(self, seconds: float) -> float:
        """Run for some seconds; return items per second."""
        runs, began = 0, time.perf_counter()
        while (spent := time.perf_counter() - began) < seconds or not runs:
            self.run()
            runs += 1
        return runs * self.items / spent

    def _warm_up(self) -> None:
        try:
            for _ in range(_WARM_UPS):
                self.run()
        except Exception as error:  # onnxruntime raises many unrelated classes here
            text = str(error)
            if "Failed to allocate memory" in text or "out of memory" in text:
                raise OutOfMemory(text) from error
            raise Unavailable(f"does not run: {_first_line(error)}") from error

    def _bind(self, way: Way) -> Any:
        """Bind inputs and outputs in the device's memory."""
        place = "cpu" if way.provider == "cpu" else "cuda"
        binding = self._session.io_binding()
        for name, array in self._inputs.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, place, 0))
        for node in self._session.get_outputs():
            shape = [self.items, *node.shape[1:]]
            value = ort.OrtValue.ortvalue_from_shape_and_type(shape, _DTYPES[node.type], place, 0)
            binding.bind_ortvalue_output(node.name, value)
        return binding


def latencies_ms(run: Callable[[], object], seconds: float) -> NDArray[np.float64]:
    """Run for some seconds; return the milliseconds of every run."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return np.asarray(times) * 1e3


def _session(path: Path, way: Way, inputs: Arrays, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads if way.provider == "cpu" else 1
    options.log_severity_level = 3
    if way.graph:  # a recorded graph has one shape
        options.add_free_dimension_override_by_name("N", len(next(iter(inputs.values()))))
        options.add_free_dimension_override_by_name("T", next(iter(inputs.values())).shape[1])
    try:
        session = ort.InferenceSession(str(path), options, providers=_providers(way))
    except Exception as error:  # onnxruntime raises many unrelated classes here
        raise Unavailable(f"does not load: {_first_line(error)}") from error
    if _PROVIDERS[way.provider] != session.get_providers()[0]:
        raise Unavailable(f"onnxruntime fell back to {session.get_providers()[0]}; its libraries are missing")
    return session


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _providers(way: Way) -> list[Any]:
    if way.provider == "cpu":
        return [_PROVIDERS["cpu"]]
    cuda = {
        "device_id": 0,
        "enable_cuda_graph": int(way.graph),
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "use_tf32": 0,  # as in the service: fp32 is fp32
    }
    chosen = [(_PROVIDERS["cuda"], cuda), _PROVIDERS["cpu"]]
    if way.provider == "tensorrt":
        options = {
            "trt_fp16_enable": way.precision == "fp16",
            "trt_cuda_graph_enable": way.graph,
            "trt_timing_cache_enable": True,
            "trt_timing_cache_path": tempfile.gettempdir(),
        }
        chosen.insert(0, (_PROVIDERS["tensorrt"], options))
    return chosen
