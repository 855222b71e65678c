"""A session on a GPU: ONNX Runtime's CUDA or TensorRT provider, never a silent fallback to the CPU."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import onnxruntime as ort
from numpy.typing import NDArray

from service.engine.cuda.device_memory import CudaMemory
from service.engine.cuda.gpu_binding import Binding, Memory
from service.engine.cuda.providers import (
    CUDA,
    TENSORRT,
    GpuOptions,
    NodePlacement,
    has_heavy,
    heavy_elsewhere,
    providers_of,
    without_what_failed,
)
from service.engine.runtime.device import Device
from service.engine.runtime.run import Arrays, Stage, Staged
from service.engine.runtime.session import Session
from service.engine.runtime.shape_buckets import Buckets
from service.errors import ModelRejected

# Sessions made at the same time on a GPU have crashed (microsoft/onnxruntime issue 26610).
_ONE_AT_A_TIME = threading.Lock()


class GpuSession(Session):
    """One graph loaded on one GPU. One thread runs a batch while another one may stage the next.

    Args:
        path: The ONNX file.
        device: The GPU.
        gpu: How to use it.

    Attributes:
        placements: The provider of each node of the graph, as ONNX Runtime assigned them before it fused any.
        captures: Whether runs may be captured as CUDA graphs: it was asked for, and ONNX Runtime found that
            the graph has no control flow and only arithmetic of shapes on the CPU.

    Raises:
        ModelRejected: The file is not a graph that loads, or ONNX Runtime moved some of it to the CPU.
    """

    kind: ClassVar[str] = "cuda"

    def __init__(self, path: Path, device: Device, *, gpu: GpuOptions | None = None) -> None:
        self._gpu = gpu or GpuOptions()
        super().__init__(path, device)
        self.captures = self._gpu.cuda_graph
        self.placements = tuple(
            NodePlacement(part.ep_name, node.op_type, node.name)
            for part in self._session.get_provider_graph_assignment_info()
            for node in part.get_nodes()
        )
        self._binding: Binding | None = None
        self._refuse_fallback(f"{path.name} was asked to run on {device}")

    def bind(self, buckets: Buckets) -> None:
        """From now on, run at fixed addresses of the GPU and pad batches to these shapes."""
        self._binding = Binding(
            self._session,
            self.inputs,
            self.outputs,
            buckets,
            self._memory,
            run_options=ort.RunOptions,
            captures=self.captures,
        )

    @property
    def stage(self) -> Stage | None:
        """A function that copies a batch to the GPU while another one runs; None before `bind`."""
        return None if self._binding is None else partial(self._stage, self._binding)

    def shrink(self, inputs: Arrays) -> None:
        """Release unused memory of the arenas; do nothing where addresses must stay."""
        if self._can_shrink:
            super().shrink(inputs)

    @property
    def _can_shrink(self) -> bool:
        """Whether arenas may shrink: captured runs replay at fixed addresses; TensorRT has its own memory."""
        return not (self._gpu.cuda_graph or self._gpu.tensorrt)

    def _memory(self) -> Memory:
        """Return the memory of a thread."""
        return CudaMemory(self.device.index)

    def _stage(self, binding: Binding, inputs: Arrays) -> Staged:
        batch = binding.stage(inputs)
        batch.options = self._run_options(inputs)
        return batch

    def _open(self, path: Path, options: Any) -> Any:
        """Return ONNX Runtime's session, made with as many of the options as the graph allows."""
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        with _ONE_AT_A_TIME:
            while True:
                try:
                    return ort.InferenceSession(
                        str(path),
                        options,
                        providers=providers_of(self.device, self._gpu),
                        enable_fallback=0,  # else ONNX Runtime moves the session to the CPU after an error
                    )
                except Exception as error:
                    fewer = without_what_failed(self._gpu, str(error))
                    if fewer is None:
                        raise
                    self._gpu = fewer

    def _run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        return super()._run(inputs) if self._binding is None else self._binding.run(inputs)

    def _run_options(self, inputs: Arrays) -> Any:
        return super()._run_options(inputs) if self._can_shrink else None

    def _arena_devices(self) -> str:
        return f"gpu:{self.device.index};cpu:0"

    def _refuse_fallback(self, asked: str) -> None:
        """Compare where the nodes run with what was asked for."""
        wanted = [CUDA] if self._gpu.tensorrt is None else [TENSORRT, CUDA]
        if missing := [name for name in wanted if name not in self._session.get_providers()]:
            raise ModelRejected(f"{asked}, but ONNX Runtime left out {' and '.join(missing)} (see stderr)")
        if not self.placements:
            raise ModelRejected(f"{asked}, but ONNX Runtime does not say what runs where")
        if elsewhere := heavy_elsewhere(self.placements, wanted):
            raise ModelRejected(f"{asked}, but ONNX Runtime placed these on the CPU: {elsewhere}")
        if (
            self._gpu.tensorrt
            and not has_heavy(self.placements, TENSORRT)
            and has_heavy(self.placements, CUDA)
        ):
            raise ModelRejected(f"{asked} by TensorRT, which takes none of its heavy nodes")
