"""A session: threads are always explicit, a graph that does not load is refused, an error is ours."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from service.engine.cuda.driver import CudaProblem
from service.engine.runtime.providers import (
    CPU,
    CUDA,
    TENSORRT,
    GpuOptions,
    Placed,
    TensorRT,
    heavy_elsewhere,
)
from service.engine.runtime.session import Device, RunFailed, Session, choose_devices, cuda_problem
from service.errors import ModelRejected, StartFailed
from tests.tiny_models import SIZE, probabilities, tiny_graph

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    onnx.save(tiny_graph(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[Any, dict[str, Any]]]:
    """The options of the session that was made last, and the rest of what it was made with."""
    made: list[tuple[Any, dict[str, Any]]] = []
    real = ort.InferenceSession

    def remember(path: str, options: Any, **rest: Any) -> Any:
        made.append((options, rest))
        return real(path, options, **rest)

    monkeypatch.setattr(ort, "InferenceSession", remember)
    return lambda: made[-1]


@pytest.mark.parametrize(("threads", "spinning"), [(1, False), (3, True), (2, False)])
def test_threads_are_explicit_and_never_spin_after_a_run(
    graph: Path, made: Callable[[], tuple[Any, dict[str, Any]]], threads: int, spinning: bool
) -> None:
    Session(graph, Device("cpu"), threads=threads, spinning=spinning)
    chosen, rest = made()
    assert (chosen.intra_op_num_threads, chosen.inter_op_num_threads) == (threads, 1)
    assert chosen.get_session_config_entry("session.intra_op.allow_spinning") == str(int(spinning))
    assert chosen.get_session_config_entry("session.force_spinning_stop") == "1"
    assert rest["disabled_optimizers"] == [
        "SkipLayerNormFusion"
    ]  # its kernel is slower than what it replaces


@pytest.mark.parametrize("threads", [1, 2])
def test_any_number_of_threads_gives_the_same_numbers(graph: Path, threads: int) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (5, SIZE, SIZE, 1), dtype=np.uint8)
    outputs = Session(graph, Device("cpu"), threads=threads, spinning=True).run({"image": pixels})
    np.testing.assert_allclose(outputs["probabilities"], probabilities(pixels), atol=1e-5)


def test_lanes_of_the_cpu_are_told_apart_by_name() -> None:
    assert [str(Device("cpu", lane)) for lane in range(3)] == ["cpu", "cpu:1", "cpu:2"]
    assert str(Device("cuda")) == "cuda:0"


def test_what_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"words")
    with pytest.raises(ModelRejected, match=r"model\.onnx does not load"):
        Session(tmp_path / "model.onnx", Device("cpu"))


def test_a_run_on_wrong_inputs_raises_our_error(graph: Path) -> None:
    with pytest.raises(RunFailed, match="image"):
        Session(graph, Device("cpu")).run({"image": np.zeros((1, 2, 2, 1), dtype=np.uint8)})


# --- GPUs, with stand-ins for what only a GPU has ---------------------------------------------


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.engine.runtime.session.cuda_problem", lambda provider="cuda": None)
    monkeypatch.setattr("service.engine.runtime.session.gpu_names", lambda: ("NVIDIA H200", "NVIDIA H200"))


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("wanted", "devices"),
    [
        ("auto", ["cuda:0", "cuda:1"]),
        ("cuda", ["cuda:0", "cuda:1"]),
        ("cuda:1", ["cuda:1"]),
        ("cpu", ["cpu"]),
    ],
)
def test_cuda_is_every_gpu_and_a_number_one_of_them(wanted: str, devices: list[str]) -> None:
    assert [str(device) for device in choose_devices(wanted)] == devices


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_beyond_the_last_one_is_refused() -> None:
    with pytest.raises(StartFailed, match="device cuda:2 was asked for, but the last GPU here is cuda:1"):
        choose_devices("cuda:2")


def test_only_auto_may_choose_the_cpu_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "service.engine.runtime.session.cuda_problem", lambda provider: f"{provider} is not there"
    )
    assert choose_devices("auto", "tensorrt") == (Device("cpu"),)
    with pytest.raises(StartFailed, match="device cuda:0 was asked for, but tensorrt is not there"):
        choose_devices("cuda:0", "tensorrt")


def test_cuda_is_not_asked_about_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.engine.runtime.session.cuda_problem", lambda *_: pytest.fail("was asked"))
    assert choose_devices("cpu") == (Device("cpu"),)


def test_two_packages_that_overwrite_each_other_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    monkeypatch.setattr("importlib.metadata.version", lambda package: "1.31.1")
    assert "pip uninstall onnxruntime onnxruntime-gpu, then" in (cuda_problem() or "")


def test_an_onnxruntime_for_the_cpu_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    assert (cuda_problem() or "").endswith("install the gpu extra: pip install 'kotae[gpu]'")


@pytest.fixture
def onnxruntime_with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(ort, "cuda_version", "13.0", raising=False)
    monkeypatch.setattr("service.engine.cuda.driver.visible_gpus", lambda major: ("NVIDIA H200",))


@pytest.mark.usefixtures("onnxruntime_with_cuda")
def test_what_is_missing_is_told_and_nothing_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load_libraries(major: int) -> None:
        raise CudaProblem(f"libcudnn.so.9 of CUDA {major} does not load")

    def preload_dlls() -> None:
        sys.stdout.write("Failed to load libcudnn.so.9")

    monkeypatch.setattr(ort, "preload_dlls", preload_dlls, raising=False)
    monkeypatch.setattr("service.engine.cuda.driver.load_libraries", load_libraries)
    assert cuda_problem() == "libcudnn.so.9 of CUDA 13 does not load"
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("onnxruntime_with_cuda")
def test_tensorrt_is_looked_for_only_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_tensorrt() -> None:
        raise CudaProblem("libnvinfer.so.10 does not load")

    monkeypatch.setattr(ort, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr("service.engine.cuda.driver.load_libraries", lambda major: None)
    monkeypatch.setattr("service.engine.cuda.driver.load_tensorrt", load_tensorrt)
    assert cuda_problem() is None
    assert cuda_problem("tensorrt") == "libnvinfer.so.10 does not load"


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
        Session(graph, Device("cuda", 1))


def test_a_heavy_node_that_was_placed_on_the_cpu_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_graph()
    model.graph.node[3].name = "classifier"
    onnx.save(model, tmp_path / "model.onnx")
    standing_in(monkeypatch, CUDA)
    with pytest.raises(ModelRejected, match=r"placed these on the CPU: 1 MatMul \(classifier\)$"):
        Session(tmp_path / "model.onnx", Device("cuda"))


def test_onnxruntime_is_never_let_fall_back_by_itself(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = standing_in(monkeypatch, failing=("CUDA failure 999: unknown error",))
    with pytest.raises(ModelRejected, match=r"model\.onnx does not load: CUDA failure 999"):
        Session(graph, Device("cuda"))
    assert [rest["enable_fallback"] for rest in made] == [0]


def test_a_capture_that_the_graph_does_not_allow_is_given_up(
    graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = "This session cannot use the graph capture feature as requested by the user"
    made = standing_in(monkeypatch, CUDA, failing=(refusal,))
    monkeypatch.setattr("service.engine.runtime.session.heavy_elsewhere", lambda nodes, wanted: "")
    session = Session(graph, Device("cuda"), gpu=GpuOptions(cuda_graph=True))
    assert [rest["providers"][0][1]["enable_cuda_graph"] for rest in made] == [1, 0]
    assert not session.captures


def test_tensorrt_that_runs_nothing_heavy_is_refused(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standing_in(monkeypatch, TENSORRT, CUDA)
    monkeypatch.setattr(
        "service.engine.runtime.session.Placed", lambda provider, op_type, name: Placed(CUDA, op_type, name)
    )
    with pytest.raises(ModelRejected, match="by TensorRT, which takes none of its heavy nodes"):
        Session(graph, Device("cuda"), gpu=GpuOptions(tensorrt=TensorRT(Path("a"), Path("b"))))


def test_where_every_node_of_a_graph_runs_is_known(graph: Path) -> None:
    placed = Session(graph, Device("cpu")).placed
    assert [node.op_type for node in placed] == ["Cast", "Div", "Flatten", "MatMul", "Softmax"]
    assert {node.provider for node in placed} == {CPU}
    assert heavy_elsewhere(placed, [CUDA]).startswith("1 MatMul")


def test_onnx_runtime_reports_to_nobody(graph: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    program = (
        "from service.engine.runtime.session import Device, Session\n"
        f"Session({str(graph)!r}, Device('cpu'), threads=1)"
    )
    environment = {"HOME": str(home), "TMPDIR": str(home)}  # nothing that would tell of a test or of CI
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, check=True)
    assert list(home.iterdir()) == []  # no identifier and no reports that wait to be sent
