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
    Provider,
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


def options(providers: list[Provider], name: str) -> dict[str, object]:
    (found,) = [one[1] for one in providers if not isinstance(one, str) and one[0] == name]
    return found


def names(providers: list[Provider]) -> list[str]:
    return [one if isinstance(one, str) else one[0] for one in providers]


def test_each_provider_stands_behind_the_ones_that_go_first() -> None:
    assert names(providers_of(Device("cuda"), GpuOptions())) == [CUDA, CPU]
    assert names(providers_of(Device("cuda"), GpuOptions(tensorrt=ENGINES))) == [TENSORRT, CUDA, CPU]


def test_every_gpu_provider_is_on_the_same_device() -> None:
    providers = providers_of(Device("cuda", 3), GpuOptions(tensorrt=ENGINES))
    assert [options(providers, name)["device_id"] for name in (TENSORRT, CUDA)] == [3, 3]


def test_an_arena_has_a_limit_only_where_one_is_set() -> None:
    assert "gpu_mem_limit" not in options(providers_of(Device("cuda"), GpuOptions()), CUDA)
    limited = providers_of(Device("cuda"), GpuOptions(memory_limit_bytes=2**30))
    assert options(limited, CUDA)["gpu_mem_limit"] == 2**30


@pytest.mark.parametrize("tensorrt", [None, ENGINES])
@pytest.mark.parametrize("wanted", [False, True])
def test_exactly_the_first_provider_captures_runs(tensorrt: TensorRT | None, wanted: bool) -> None:
    providers = providers_of(Device("cuda"), GpuOptions(cuda_graph=wanted, tensorrt=tensorrt))
    switches = [options(providers, CUDA)["enable_cuda_graph"]]
    if tensorrt:
        switches.insert(0, options(providers, TENSORRT)["trt_cuda_graph_enable"])
    assert switches == [int(wanted), 0][: len(switches)]


def test_engines_are_built_for_the_range_of_shapes_and_kept() -> None:
    found = options(providers_of(Device("cuda"), GpuOptions(tensorrt=ENGINES)), TENSORRT)
    assert found["trt_profile_min_shapes"] == "input_ids:1x1"
    assert found["trt_profile_opt_shapes"] == "input_ids:8x128"
    assert found["trt_profile_max_shapes"] == "input_ids:32x128"
    assert (found["trt_engine_cache_enable"], found["trt_timing_cache_enable"]) == (1, 1)
    assert (found["trt_engine_cache_path"], found["trt_timing_cache_path"]) == (
        Path("/cache/tiny"),
        Path("/cache"),
    )


@pytest.mark.parametrize(("precision", "bits"), [("fp32", (0, 0)), ("fp16", (1, 0)), ("int8", (0, 1))])
def test_tensorrt_may_use_fewer_bits_only_where_the_variant_has_them(
    precision: str, bits: tuple[int, int]
) -> None:
    tensorrt = TensorRT(Path("a"), Path("b"), precision)
    found = options(providers_of(Device("cuda"), GpuOptions(tensorrt=tensorrt)), TENSORRT)
    assert (found["trt_fp16_enable"], found["trt_int8_enable"]) == bits
    assert not any("profile" in name for name in found)


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
