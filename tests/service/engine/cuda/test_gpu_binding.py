"""A bound session answers as the plain one does, at fixed addresses; captured runs are never mixed up.

What is bound here is the CPU's memory. What only a GPU can show carries the marker `gpu`.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from service.engine.cuda.capture import CapturedRuns, CaptureGate
from service.engine.cuda.gpu_binding import Binding
from service.engine.runtime.run import RunFailed
from service.engine.runtime.session import Device, Session
from service.engine.runtime.shape_buckets import Buckets
from service.repository.golden import read_golden_arrays
from tests.service.engine.host_memory import HostMemory
from tests.tiny_models import SIZE, tiny_graph

MODELS = Path(__file__).resolve().parents[4] / "models"
SHIPPED = sorted(path.parent for path in MODELS.glob("*/*/model.onnx"))


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    onnx.save(tiny_graph(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def bound(session: Session, most: int, memory: Callable[[], Any] = HostMemory) -> Binding:
    return Binding(
        session._session, session.inputs, session.outputs, Buckets(most), memory, run_options=ort.RunOptions
    )


def pixels(count: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    draw = np.random.default_rng(seed)
    return {"image": draw.integers(0, 256, (count, SIZE, SIZE, 1), dtype=np.uint8)}


def repeated(rows: dict[str, NDArray[Any]], count: int) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([array] * count)[:count] for name, array in rows.items()}


def assert_equal(one: Any, other: Any, tolerance: float = 1e-5) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], atol=tolerance, rtol=1e-4)


def test_every_size_answers_as_the_plain_session_does(graph: Path) -> None:
    session = Session(graph, Device("cpu"))
    binding = bound(session, 6)
    for count in [*range(1, 14), 2, 1]:
        rows = pixels(count, seed=count)
        assert_equal(binding.run(rows), session.run(rows))


@pytest.mark.parametrize("version", SHIPPED, ids=lambda path: path.parent.name)
def test_padding_changes_no_answer_of_a_shipped_model(version: Path) -> None:
    session = Session(version / "model.onnx", Device("cpu"))
    binding = bound(session, 8)
    rows, _ = read_golden_arrays(version)
    rows = {name: array[:2] for name, array in rows.items()}
    for count in (1, 2, 5):
        batch = repeated(rows, count)
        padded, plain = binding.run(batch), session.run(batch)
        frames = plain.get("frames")
        if frames is not None:  # beyond an item's own frames stands what padding made
            for outputs in (padded, plain):
                longest = int(frames.max())
                outputs["log_probs"] = outputs["log_probs"][:, :longest]
        assert_equal(padded, plain, 1e-4)


def test_a_fixed_shape_keeps_its_addresses_and_its_binding(graph: Path) -> None:
    memory = HostMemory()
    binding = bound(Session(graph, Device("cpu")), 8, lambda: memory)
    batches = [binding.stage(pixels(count)) for count in (5, 6, 1, 5)]
    assert batches[0]._bound is batches[1]._bound is batches[3]._bound is not batches[2]._bound
    assert (memory.blocks, len(memory.hosts)) == (2, 1)  # one input, one output


def test_answers_outlive_the_next_batch(graph: Path) -> None:
    session = Session(graph, Device("cpu"))
    binding = bound(session, 4)
    first = binding.run(pixels(3, seed=1))
    binding.run(pixels(4, seed=2))
    assert_equal(first, session.run(pixels(3, seed=1)))


def test_one_thread_copies_its_batch_while_anothers_waits_to_run(graph: Path) -> None:
    session = Session(graph, Device("cpu"))
    binding = bound(session, 4)
    mine = binding.stage(pixels(4, seed=1))
    others: list[Any] = []
    thread = threading.Thread(target=lambda: others.append(binding.run(pixels(4, seed=2))))
    thread.start()
    thread.join()
    mine.run()
    assert_equal(mine.outputs(), session.run(pixels(4, seed=1)))
    assert_equal(others[0], session.run(pixels(4, seed=2)))


@pytest.mark.parametrize(
    "wrong", [np.zeros((1, 2, 2, 1), np.uint8), np.zeros((1, SIZE, SIZE, 1), np.int8), np.zeros(1, np.uint8)]
)
def test_what_the_graph_does_not_take_is_not_copied(graph: Path, wrong: NDArray[Any]) -> None:
    with pytest.raises(RunFailed, match="the graph takes"):
        bound(Session(graph, Device("cpu")), 4).run({"image": wrong})


class Capturing:
    """A session that does as ONNX Runtime's with CUDA graphs: it replays whatever a number stands for."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.captured: dict[str, Any] = {}
        self.numbers: list[str] = []
        self.fails = False

    def io_binding(self) -> Any:
        return self._session.io_binding()

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        number = options.get_run_config_entry("gpu_graph_id")
        self.numbers.append(number)
        if number != "-1":
            if self.fails:
                raise RuntimeError("operation not permitted when stream is capturing")
            binding = self.captured.setdefault(number, binding)
        self._session.run_with_iobinding(binding)


def capturing(session: Session, most: int) -> tuple[Binding, Capturing]:
    double = Capturing(session._session)
    binding = Binding(
        double,
        session.inputs,
        session.outputs,
        Buckets(most),
        HostMemory,
        run_options=ort.RunOptions,
        captures=True,
    )
    return binding, double


def test_any_sequence_of_sizes_replays_what_was_captured_for_its_bucket(graph: Path) -> None:
    session = Session(graph, Device("cpu"))
    binding, double = capturing(session, 16)
    draw = random.Random(5)
    for step in range(120):
        rows = pixels(draw.randint(1, 16), seed=step)
        assert_equal(binding.run(rows), session.run(rows))
    assert len(double.captured) == len(binding.buckets.ladder())
    assert "0" not in double.numbers and "-1" not in double.numbers


def test_threads_share_no_number(graph: Path) -> None:
    binding, double = capturing(Session(graph, Device("cpu")), 4)
    binding.run(pixels(4))
    thread = threading.Thread(target=lambda: binding.run(pixels(4)))
    thread.start()
    thread.join()
    assert double.numbers == ["1", "2"]


def test_a_replay_at_other_addresses_is_refused(graph: Path) -> None:
    binding, _ = capturing(Session(graph, Device("cpu")), 4)
    binding.run(pixels(4))
    batch = binding.stage(pixels(4))
    batch._shapes_and_addresses = ((4,), (1, 2))
    with pytest.raises(RunFailed, match="captured run 1 is of"):
        batch.run()


def test_a_capture_that_fails_leaves_a_model_that_runs_without(
    graph: Path, caplog: pytest.LogCaptureFixture
) -> None:
    session = Session(graph, Device("cpu"))
    binding, double = capturing(session, 4)
    double.fails = True
    for seed in range(3):
        assert_equal(binding.run(pixels(3, seed)), session.run(pixels(3, seed)))
    assert double.numbers == ["1", "-1", "-1", "-1"]
    assert "could not be captured" in caplog.text


def test_ragged_graphs_are_never_captured() -> None:
    version = next(path for path in SHIPPED if path.parent.name == "languages")
    session = Session(version / "model.onnx", Device("cpu"))
    binding, double = capturing(session, 4)
    rows, _ = read_golden_arrays(version)
    binding.run({name: array[:2] for name, array in rows.items()})
    assert double.numbers == ["-1"]


def test_a_number_stands_for_one_thing() -> None:
    captured = CapturedRuns()
    numbers = [captured.new_number() for _ in range(3)]
    assert numbers == [1, 2, 3]
    captured.add(2, "a")
    assert [captured.has(number) for number in numbers] == [False, True, False]
    captured.check(2, "a")
    with pytest.raises(RunFailed):
        captured.check(2, "b")


def test_nobody_touches_the_device_while_a_run_is_captured() -> None:
    gate, order = CaptureGate(), []

    def copy() -> None:
        with gate.shared():
            order.append("copy")

    thread = threading.Thread(target=copy)
    with gate.alone():
        with gate.shared():
            order.append("free")  # whoever captures may free memory
        thread.start()
        thread.join(0.02)
        order.append("captured")
    thread.join(20)
    assert order == ["free", "captured", "copy"]


def test_who_is_at_the_device_may_free_memory_though_somebody_waits_to_capture() -> None:
    gate, order = CaptureGate(), []

    def capture() -> None:
        with gate.alone():
            order.append("capture")

    thread = threading.Thread(target=capture)
    with gate.shared():
        thread.start()
        while not gate._capturing:
            time.sleep(0.001)
        with gate.shared():
            order.append("free")
    thread.join(20)
    assert order == ["free", "capture"]


def test_a_capture_waits_for_those_who_are_at_the_device() -> None:
    gate, order = CaptureGate(), []

    def capture() -> None:
        with gate.alone():
            order.append("capture")

    with gate.shared():
        thread = threading.Thread(target=capture)
        thread.start()
        thread.join(0.02)
        order.append("copied")
    thread.join(20)
    assert order == ["copied", "capture"]
