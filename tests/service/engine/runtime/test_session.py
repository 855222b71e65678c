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

from service.engine.runtime.session import Device, RunFailed, Session
from service.errors import ModelRejected
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
