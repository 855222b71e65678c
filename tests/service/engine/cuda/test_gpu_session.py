"""A session on a GPU is refused if any heavy node runs elsewhere. What only a GPU has is a stand-in here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import pytest

from service.engine.cuda.gpu_session import GpuSession
from service.engine.cuda.providers import (
    CPU,
    CUDA,
    TENSORRT,
    GpuOptions,
    NodePlacement,
    TensorRT,
    heavy_elsewhere,
)
from service.engine.runtime.device import Device
from service.errors import ModelRejected
from tests.service.engine.host_memory import HostGpuSession
from tests.tiny_models import tiny_graph


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    onnx.save(tiny_graph(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def standing_in(monkeypatch: pytest.MonkeyPatch, *claimed: str, failing: tuple[str, ...] = ()) -> list[Any]:
    """Make sessions that run on the CPU and claim providers; the first ones fail with these texts.

    Returns:
        What each was made with.
    """
    made: list[Any] = []
    real = ort.InferenceSession

    def stand_in(path: str, options: Any, **rest: Any) -> Any:
        made.append(rest)
        if len(made) <= len(failing):
            raise RuntimeError(failing[len(made) - 1])
        session = real(path, options, providers=[CPU])
        session.get_providers = lambda: [*claimed, CPU]
        return session

    monkeypatch.setattr(ort, "InferenceSession", stand_in)
    return made


def test_a_provider_that_was_left_out_is_named(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standing_in(monkeypatch)
    with pytest.raises(ModelRejected, match="on cuda:1, but ONNX Runtime left out CUDAExecutionProvider"):
        GpuSession(graph, Device("cuda", 1))


def test_a_heavy_node_that_was_placed_on_the_cpu_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_graph()
    model.graph.node[3].name = "classifier"
    onnx.save(model, tmp_path / "model.onnx")
    standing_in(monkeypatch, CUDA)
    with pytest.raises(ModelRejected, match=r"placed these on the CPU: 1 MatMul \(classifier\)$"):
        GpuSession(tmp_path / "model.onnx", Device("cuda"))


def test_onnxruntime_is_never_let_fall_back_by_itself(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = standing_in(monkeypatch, failing=("CUDA failure 999: unknown error",))
    with pytest.raises(ModelRejected, match=r"model\.onnx does not load: CUDA failure 999"):
        GpuSession(graph, Device("cuda"))
    assert [rest["enable_fallback"] for rest in made] == [0]


def test_a_capture_that_the_graph_does_not_allow_is_given_up(
    graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = "This session cannot use the graph capture feature as requested by the user"
    made = standing_in(monkeypatch, CUDA, failing=(refusal,))
    monkeypatch.setattr("service.engine.cuda.gpu_session.heavy_elsewhere", lambda nodes, wanted: "")
    session = GpuSession(graph, Device("cuda"), gpu=GpuOptions(cuda_graph=True))
    assert [rest["providers"][0][1]["enable_cuda_graph"] for rest in made] == [1, 0]
    assert not session.captures


def test_tensorrt_that_runs_nothing_heavy_is_refused(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standing_in(monkeypatch, TENSORRT, CUDA)
    monkeypatch.setattr(
        "service.engine.cuda.gpu_session.NodePlacement",
        lambda provider, op_type, name: NodePlacement(CUDA, op_type, name),
    )
    with pytest.raises(ModelRejected, match="by TensorRT, which takes none of its heavy nodes"):
        GpuSession(graph, Device("cuda"), gpu=GpuOptions(tensorrt=TensorRT(Path("a"), Path("b"))))


def test_where_every_node_of_a_graph_runs_is_known(graph: Path) -> None:
    placed = HostGpuSession(graph, Device("cuda")).placements
    assert [node.op_type for node in placed] == ["Cast", "Div", "Flatten", "MatMul", "Softmax"]
    assert {node.provider for node in placed} == {CPU}
    assert heavy_elsewhere(placed, [CUDA]).startswith("1 MatMul")
