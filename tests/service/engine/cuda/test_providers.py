"""Which providers run a graph, with which options, and how nodes on a wrong one are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.engine.cuda.providers import (
    CPU,
    CUDA,
    TENSORRT,
    GpuOptions,
    NodePlacement,
    ShapeRange,
    TensorRT,
    has_heavy,
    heavy_elsewhere,
    providers_of,
    without_what_failed,
)
from service.engine.runtime.device import Device

PROFILE = {"input_ids": ShapeRange((1, 1), (8, 128), (32, 128))}
ENGINES = TensorRT(Path("/cache/tiny"), Path("/cache"), "fp16", PROFILE)


CUDA_OPTIONS = {
    "device_id": 3,
    "cudnn_conv_algo_search": "HEURISTIC",
    "cudnn_conv_use_max_workspace": 1,
    "arena_extend_strategy": "kSameAsRequested",
    "use_tf32": 0,
    "do_copy_in_default_stream": 1,
    "enable_cuda_graph": 0,
}
TENSORRT_OPTIONS = {
    "device_id": 3,
    "trt_fp16_enable": 1,
    "trt_int8_enable": 0,
    "trt_engine_cache_enable": 1,
    "trt_engine_cache_path": Path("/cache/tiny"),
    "trt_timing_cache_enable": 1,
    "trt_timing_cache_path": Path("/cache"),
    "trt_profile_min_shapes": "input_ids:1x1",
    "trt_profile_opt_shapes": "input_ids:8x128",
    "trt_profile_max_shapes": "input_ids:32x128",
}


@pytest.mark.parametrize(
    ("gpu", "changed"),
    [
        (GpuOptions(), {}),
        (GpuOptions(cuda_graph=True), {"enable_cuda_graph": 1}),
        (GpuOptions(memory_limit_bytes=2**30), {"gpu_mem_limit": 2**30}),
    ],
)
def test_cuda_goes_before_the_cpu_with_these_options(gpu: GpuOptions, changed: dict[str, object]) -> None:
    assert providers_of(Device("cuda", 3), gpu) == [
        ("CUDAExecutionProvider", CUDA_OPTIONS | changed),
        "CPUExecutionProvider",
    ]


def test_tensorrt_goes_before_cuda_with_these_options() -> None:
    assert providers_of(Device("cuda", 3), GpuOptions(tensorrt=ENGINES)) == [
        ("TensorrtExecutionProvider", TENSORRT_OPTIONS),
        ("CUDAExecutionProvider", CUDA_OPTIONS),
        "CPUExecutionProvider",
    ]


def tensorrt_options(tensorrt: TensorRT) -> dict[str, object]:
    first = providers_of(Device("cuda"), GpuOptions(tensorrt=tensorrt))[0]
    assert isinstance(first, tuple)
    return first[1]


def test_engines_of_two_inputs_have_a_range_for_each() -> None:
    profile = {"a": ShapeRange((1,), (2,), (3,)), "b": ShapeRange((4, 5), (6, 7), (8, 9))}
    options = tensorrt_options(TensorRT(Path("a"), Path("b"), profile=profile))
    assert options["trt_profile_opt_shapes"] == "a:2,b:6x7"


@pytest.mark.parametrize(("precision", "bits"), [("fp32", (0, 0)), ("fp16", (1, 0)), ("int8", (0, 1))])
def test_tensorrt_may_use_fewer_bits_only_where_the_variant_has_them(
    precision: str, bits: tuple[int, int]
) -> None:
    options = tensorrt_options(TensorRT(Path("a"), Path("b"), precision))
    assert (options["trt_fp16_enable"], options["trt_int8_enable"]) == bits
    assert not any("profile" in name for name in options)


def test_what_a_graph_does_not_allow_is_given_up_and_nothing_else() -> None:
    asked = GpuOptions(memory_limit_bytes=1, cuda_graph=True, tensorrt=ENGINES)
    less = without_what_failed(asked, "Following input(s) has no associated shape profiles provided: x")
    assert less is not None and less.tensorrt is not None
    assert (less.tensorrt.profile, less.cuda_graph, less.memory_limit_bytes) == ({}, True, 1)
    refusal = "This session cannot use the graph capture feature as requested by the user"
    plain = without_what_failed(less, refusal)
    assert plain is not None and (plain.cuda_graph, plain.tensorrt) == (False, less.tensorrt)
    assert without_what_failed(plain, refusal) is None
    assert without_what_failed(asked, "out of memory") is None


HEAVY = [
    *("Conv", "ConvTranspose", "FusedConv", "NhwcFusedConv", "QLinearConv", "ConvInteger"),
    *("MatMul", "FusedMatMul", "MatMulInteger", "QLinearMatMul", "MatMulNBits", "Gemm", "FusedGemm", "QGemm"),
    *("Attention", "MultiHeadAttention", "GroupQueryAttention", "QAttention", "PackedAttention", "LSTM"),
]


@pytest.mark.parametrize("op_type", HEAVY)
def test_a_heavy_node_on_the_cpu_is_named_with_its_type(op_type: str) -> None:
    assert heavy_elsewhere([NodePlacement(CPU, op_type, "layer1")], [CUDA]) == f"1 {op_type} (layer1)"
    assert heavy_elsewhere([NodePlacement(CUDA, op_type, "layer1")], [CUDA]) == ""


def test_shape_arithmetic_may_stay_on_the_cpu() -> None:
    light = [
        NodePlacement(CPU, op_type, "a")
        for op_type in ("Shape", "Gather", "Concat", "Reshape", "Cast", "Range")
    ]
    assert heavy_elsewhere(light, [CUDA]) == ""


def test_many_nodes_are_counted_and_some_are_named() -> None:
    nodes = [NodePlacement(CPU, "MatMul", f"m{number}") for number in range(9)] + [
        NodePlacement(CPU, "Conv", "")
    ]
    told = heavy_elsewhere(nodes, [CUDA])
    assert told == "1 Conv (without a name), 9 MatMul (m0, m1, m2, m3, …)"


def test_a_provider_without_a_heavy_node_is_seen() -> None:
    nodes = [NodePlacement(TENSORRT, "Relu", "a"), NodePlacement(CUDA, "Conv", "b")]
    assert (has_heavy(nodes, TENSORRT), has_heavy(nodes, CUDA)) == (False, True)
