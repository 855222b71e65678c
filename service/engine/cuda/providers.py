"""ONNX Runtime's execution providers for a GPU: their options, and checks of where a graph's nodes run.

Plain values, without the library. The option names are those of ONNX Runtime 1.31 (its pages on the CUDA and
the TensorRT execution provider).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from service.engine.runtime.device import Device

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

GpuProvider = Literal["cuda", "tensorrt"]
Provider = str | tuple[str, dict[str, Any]]

# Convolutions, matrix products and attention, also fused or quantised (FusedConv, QLinearMatMul, MatMulNBits,
# MultiHeadAttention, …), and recurrent networks.
_HEAVY = re.compile(r"Conv|MatMul|Gemm|Attention|^(LSTM|GRU|RNN|Einsum)$")
_NAMES_SHOWN = 4


class ShapeRange(NamedTuple):
    """The shapes of one input that an engine is built for.

    Attributes:
        least: The smallest size of each axis.
        best: The shape that kernels are chosen for.
        most: The largest size of each axis.
    """

    least: tuple[int, ...]
    best: tuple[int, ...]
    most: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TensorRT:
    """How TensorRT builds and keeps the engines of one graph.

    Attributes:
        engines: Folder of this graph's engines. ONNX Runtime names an engine after the graph's structure, not
            its weights, so each graph needs a folder of its own.
        timings: Folder of the timing cache, which saves most of a build. Graphs may share it.
        precision: The precision of the graph; kernels of a lower precision are not allowed.
        profile: Range of shapes by input name. If it is empty, ONNX Runtime builds a new engine for each
            shape beyond those that it has seen.
    """

    engines: Path
    timings: Path
    precision: str = "fp32"
    profile: Mapping[str, ShapeRange] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GpuOptions:
    """How a session uses its GPU.

    Attributes:
        memory_limit_bytes: The largest size of the session's arena; None is no limit. It does not count what
            CUDA itself allocates, such as its context.
        cuda_graph: Whether to capture and replay runs, where the graph allows it; not with TensorRT.
        tensorrt: How TensorRT runs the nodes that it can; None uses CUDA alone.
    """

    memory_limit_bytes: int | None = None
    cuda_graph: bool = False
    tensorrt: TensorRT | None = None


def providers_of(device: Device, gpu: GpuOptions) -> list[Provider]:
    """Return the providers for a GPU in the order of preference.

    The last one is the CPU: ONNX Runtime needs it for arithmetic of shapes. `heavy_elsewhere` finds other
    nodes that were placed there.
    """
    cuda: Provider = (CUDA, _cuda_options(device, gpu))
    if gpu.tensorrt is None:
        return [cuda, CPU]
    return [(TENSORRT, _tensorrt_options(device, gpu.tensorrt)), cuda, CPU]


def _cuda_options(device: Device, gpu: GpuOptions) -> dict[str, Any]:
    """Return the options of the CUDA provider.

    - `cudnn_conv_algo_search`: the default, EXHAUSTIVE, tries every algorithm at the first run of every new
      shape; HEURISTIC asks cuDNN, which costs next to nothing.
    - `arena_extend_strategy`: the default, kNextPowerOfTwo, doubles the arena; it does not shrink by itself
      (microsoft/onnxruntime issues 22297, 14474).
    - `use_tf32`: by default products of fp32 have 10 bits of mantissa on Ampere and later. A variant's
      tolerance is for all 23; the fp16 variant is the fast one, and its difference was measured.
    - `do_copy_in_default_stream`: the option's page warns of data races otherwise.
    """
    options: dict[str, Any] = {
        "device_id": device.index,
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": 1,
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": 0,
        "do_copy_in_default_stream": 1,
        "enable_cuda_graph": int(gpu.cuda_graph),
    }
    if gpu.memory_limit_bytes is not None:
        options["gpu_mem_limit"] = gpu.memory_limit_bytes
    return options


def _tensorrt_options(device: Device, tensorrt: TensorRT) -> dict[str, Any]:
    """Return the options of the TensorRT provider.

    Engines and the timings of their kernels are kept between starts. With a profile an engine is built once,
    when the session is made, for the whole range of shapes.
    """
    options: dict[str, Any] = {
        "device_id": device.index,
        "trt_fp16_enable": int(tensorrt.precision == "fp16"),
        "trt_int8_enable": int(tensorrt.precision == "int8"),
        "trt_engine_cache_enable": 1,
        "trt_engine_cache_path": tensorrt.engines,
        "trt_timing_cache_enable": 1,
        "trt_timing_cache_path": tensorrt.timings,
    }
    if tensorrt.profile:
        for which, shape in (("min", "least"), ("opt", "best"), ("max", "most")):
            options[f"trt_profile_{which}_shapes"] = ",".join(
                f"{name}:{'x'.join(map(str, getattr(shapes, shape)))}"
                for name, shapes in tensorrt.profile.items()
            )
    return options


def without_what_failed(gpu: GpuOptions, error: str) -> GpuOptions | None:
    """Return the options without the one because of which ONNX Runtime refused to make a session.

    TensorRT may run a graph in parts, whose shapes are unknown here; then a profile is refused. A capture is
    refused if a node is not on the GPU. For any other error, None.
    """
    if gpu.tensorrt and gpu.tensorrt.profile and "no associated shape profiles" in error:
        return replace(gpu, tensorrt=replace(gpu.tensorrt, profile={}))
    if gpu.cuda_graph and "graph capture feature" in error:
        return replace(gpu, cuda_graph=False)
    return None


class NodePlacement(NamedTuple):
    """A node of a graph and the provider that runs it."""

    provider: str
    op_type: str
    name: str


def heavy_elsewhere(nodes: Iterable[NodePlacement], wanted: Collection[str]) -> str:
    """Return the heavy nodes that none of the wanted providers runs.

    Heavy nodes are convolutions, matrix products, attention and recurrent networks.

    Returns:
        Operators with names of nodes, such as `2 Conv (a, b), 1 Gemm (c)`; empty if there are none.
    """
    names: dict[str, list[str]] = defaultdict(list)
    for node in nodes:
        if _HEAVY.search(node.op_type) and node.provider not in wanted:
            names[node.op_type].append(node.name or "without a name")
    return ", ".join(f"{len(found)} {op_type} ({_some(found)})" for op_type, found in sorted(names.items()))


def has_heavy(nodes: Iterable[NodePlacement], provider: str) -> bool:
    """Return whether a provider runs at least one heavy node."""
    return any(node.provider == provider and _HEAVY.search(node.op_type) for node in nodes)


def _some(names: list[str]) -> str:
    more = ", …" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more
