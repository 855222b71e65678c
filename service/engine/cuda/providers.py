"""ONNX Runtime's execution providers for a device, their options, and where the nodes of a graph ended up.

Plain values in and out, without the library: `session` hands them to ONNX Runtime and gives back what it
says. The option names are those of ONNX Runtime 1.31 (its pages on the CUDA and the TensorRT execution
provider).
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

# Convolution, matrix product and attention, fused and quantised forms included (FusedConv, QLinearMatMul,
# MatMulNBits, MultiHeadAttention, …), and the recurrent networks.
_HEAVY = re.compile(r"Conv|MatMul|Gemm|Attention|^(LSTM|GRU|RNN|Einsum)$")
_NAMES_SHOWN = 4


class ShapeRange(NamedTuple):
    """Shapes of one input that an engine is built for.

    Attributes:
        least: Smallest size of each axis.
        best: The shape that kernels are chosen for.
        most: Largest size of each axis.
    """

    least: tuple[int, ...]
    best: tuple[int, ...]
    most: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TensorRT:
    """How TensorRT builds and keeps the engines of one graph.

    Attributes:
        engines: Folder of this graph's engines. ONNX Runtime names an engine by the graph's structure, not by
            its weights, so the folder must belong to one file.
        timings: Folder of the timing cache, which graphs may share: it saves most of a build.
        precision: The variant's; kernels of fewer bits are allowed only where the graph itself has them.
        profile: Range of shapes by input name. Empty lets ONNX Runtime widen it as shapes come, building
            anew each time.
    """

    engines: Path
    timings: Path
    precision: str = "fp32"
    profile: Mapping[str, ShapeRange] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GpuOptions:
    """How a session uses its GPU.

    Attributes:
        memory_limit_bytes: Most that the session's arena takes; None is no limit. CUDA's own allocations,
            such as its context, are beside it.
        cuda_graph: Whether runs are to be captured and replayed, where the graph allows it.
        tensorrt: Whether TensorRT runs what it can, and how; None is CUDA alone.
    """

    memory_limit_bytes: int | None = None
    cuda_graph: bool = False
    tensorrt: TensorRT | None = None


def providers_of(device: Device, gpu: GpuOptions) -> list[Provider]:
    """List the providers for a device, first choice first. The CPU is the last one always.

    ONNX Runtime leaves shape arithmetic on the CPU on purpose, so the CPU cannot be forbidden;
    `heavy_elsewhere` says whether anything that matters went there.
    """
    cuda: Provider = (CUDA, _cuda_options(device, gpu))
    if gpu.tensorrt is None:
        return [cuda, CPU]
    return [(TENSORRT, _tensorrt_options(device, gpu, gpu.tensorrt)), cuda, CPU]


def _cuda_options(device: Device, gpu: GpuOptions) -> dict[str, Any]:
    """Give the options of the CUDA provider.

    - `cudnn_conv_algo_search`: the default, EXHAUSTIVE, tries every algorithm at the first run of every new
      shape; HEURISTIC asks cuDNN, which costs next to nothing.
    - `arena_extend_strategy`: the default, kNextPowerOfTwo, doubles; memory that an arena took does not come
      back by itself (microsoft/onnxruntime issues 22297, 14474).
    - `use_tf32`: by default products of fp32 have 10 bits of mantissa on Ampere and later. A variant's
      tolerance means all 23; who wants speed takes the fp16 variant, whose difference was measured.
    - `do_copy_in_default_stream`: the page of the option warns of data races otherwise.
    - `enable_cuda_graph`: TensorRT has a switch of its own, and the two do not go together.
    """
    options: dict[str, Any] = {
        "device_id": device.index,
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": 1,
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": 0,
        "do_copy_in_default_stream": 1,
        "enable_cuda_graph": int(gpu.cuda_graph and gpu.tensorrt is None),
    }
    if gpu.memory_limit_bytes is not None:
        options["gpu_mem_limit"] = gpu.memory_limit_bytes
    return options


def _tensorrt_options(device: Device, gpu: GpuOptions, tensorrt: TensorRT) -> dict[str, Any]:
    """Give the options of the TensorRT provider.

    Engines are kept between starts, and the timings of kernels that went into them too. With a profile an
    engine is built once, when the session is made, for the whole range of shapes.
    """
    options: dict[str, Any] = {
        "device_id": device.index,
        "trt_fp16_enable": int(tensorrt.precision == "fp16"),
        "trt_int8_enable": int(tensorrt.precision == "int8"),
        "trt_engine_cache_enable": 1,
        "trt_engine_cache_path": tensorrt.engines,
        "trt_timing_cache_enable": 1,
        "trt_timing_cache_path": tensorrt.timings,
        "trt_cuda_graph_enable": int(gpu.cuda_graph),
    }
    if tensorrt.profile:
        for which, shape in (("min", "least"), ("opt", "best"), ("max", "most")):
            options[f"trt_profile_{which}_shapes"] = ",".join(
                f"{name}:{'x'.join(map(str, getattr(shapes, shape)))}"
                for name, shapes in tensorrt.profile.items()
            )
    return options


def without_what_failed(gpu: GpuOptions, error: str) -> GpuOptions | None:
    """Give options without the one that ONNX Runtime refused a session for, if it can do without.

    TensorRT takes a graph in parts if it cannot take it whole, and nobody outside knows the shapes of parts.
    A capture needs every node on the GPU. None says that the error is another.
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
    """Name the convolutions, matrix products and attentions that none of the wanted providers runs.

    Returns:
        Types of operator with names of nodes, such as `2 Conv (a, b), 1 Gemm (c)`; empty if there are none.
    """
    names: dict[str, list[str]] = defaultdict(list)
    for node in nodes:
        if _HEAVY.search(node.op_type) and node.provider not in wanted:
            names[node.op_type].append(node.name or "without a name")
    return ", ".join(f"{len(found)} {op_type} ({_some(found)})" for op_type, found in sorted(names.items()))


def has_heavy(nodes: Iterable[NodePlacement], provider: str) -> bool:
    """Tell whether a provider runs at least one convolution, matrix product or attention."""
    return any(node.provider == provider and _HEAVY.search(node.op_type) for node in nodes)


def _some(names: list[str]) -> str:
    more = ", …" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more
