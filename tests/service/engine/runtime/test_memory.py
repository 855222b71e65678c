"""Memory: a batch that does not fit is run in halves, later ones are smaller, and arenas let go."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from service.engine.lane.lane import Lane
from service.engine.lane.lanes import Lanes
from service.engine.observer import Observer
from service.engine.queue.batch import BatchLimits, RowSpec
from service.engine.queue.batcher import Batcher
from service.engine.runtime.memory import ArenaUse, KnownLimit, OutOfMemory, failure_of
from service.engine.runtime.run import RunFailed
from service.engine.runtime.session import Device, Session
from service.errors import InferenceFailed
from service.repository.catalog import Catalog
from service.repository.loader import LoadOptions
from tests.service.engine.engine_tools import ROWS, Clock, Double, Recorder, batcher_of, lane_of, pending_of
from tests.tiny_models import make_model

_MIB = 2**20


@contextmanager
def running(lane: Lane) -> Iterator[Lane]:
    try:
        yield lane
    finally:
        lane.stop()


def holding(most: int) -> Double:
    """A device whose memory holds so many rows."""

    def fail(x: NDArray[Any]) -> None:
        if len(x) > most:
            raise OutOfMemory("Failed to allocate memory for requested buffer")

    run = Double()
    run.fail = fail
    return run


async def answers_of(batcher: Batcher, run: Double, count: int) -> list[float]:
    """Have so many items wait together, and give their answers."""
    run.gate.clear()
    first = pending_of(-1)
    batcher.submit(first)
    await asyncio.to_thread(run.started.acquire)
    pending_requests = [pending_of(value) for value in range(count)]
    for pending in pending_requests:
        batcher.submit(pending)
    run.gate.set()
    rows = [await asyncio.wait_for(pending.outputs(), 20) for pending in (first, *pending_requests)]
    return [float(row["y"][0]) for (row,) in rows[1:]]


# --- a batch that does not fit -----------------------------------------------------------------


async def test_a_batch_that_does_not_fit_is_halved_and_nobody_fails() -> None:
    recorder, run = Recorder(), holding(4)
    batcher = batcher_of(BatchLimits(max_items=16), observer=recorder)
    with running(lane_of(batcher, run, observer=recorder)):
        assert await answers_of(batcher, run, 16) == [2 * value for value in range(16)]
    assert run.sizes == [1, 16, 8, 4, 4, 8, 4, 4]
    assert recorder.out_of_memories == ["cpu"] * 3
    assert recorder.failures == 0


async def test_later_batches_fit_too() -> None:
    run = holding(4)
    batcher = batcher_of(BatchLimits(max_items=16))
    with running(lane_of(batcher, run)):
        await answers_of(batcher, run, 16)
        run.sizes.clear()
        assert await answers_of(batcher, run, 16) == [2 * value for value in range(16)]
    assert max(run.sizes) <= 4


@pytest.mark.parametrize(
    ("rows", "cost", "limits"),
    [(ROWS, 1, BatchLimits(max_items=16)), (None, 3, BatchLimits(max_items=16, max_cost=48))],
    ids=["uniform", "ragged"],
)
async def test_batches_are_half_as_large_as_what_did_not_fit_until_it_is_tried_again(
    rows: Mapping[str, RowSpec] | None, cost: int, limits: BatchLimits
) -> None:
    clock = Clock()
    batcher = batcher_of(limits, rows=rows, clock=clock)
    for value in range(64):
        batcher.submit(pending_of(value, costs=[cost]))

    def claimed() -> int:
        batch = batcher.claim()
        assert batch is not None
        return len(batch.items)

    assert claimed() == 16
    batcher.note_out_of_memory(16 * cost)
    assert claimed() == 8
    batcher.note_out_of_memory(8 * cost)
    assert claimed() == 4
    clock.now += 599
    assert claimed() == 4
    clock.now += 1
    assert claimed() == 16


async def test_an_item_that_does_not_even_fit_alone_fails_alone() -> None:
    recorder, run = Recorder(), Double()

    def fail(x: NDArray[Any]) -> None:
        if 3 in x[:, 0]:
            raise OutOfMemory("too large")

    run.fail = fail
    batcher = batcher_of(BatchLimits(max_items=4), observer=recorder)
    with running(lane_of(batcher, run, observer=recorder)):
        pending, large = pending_of(1), pending_of(3)
        batcher.submit(pending)
        batcher.submit(large)
        assert float((await pending.outputs())[0]["y"][0]) == 2
        with pytest.raises(InferenceFailed):
            await large.outputs()
    assert recorder.failures == 1


def test_a_limit_is_halved_at_each_failure_and_is_at_least_one() -> None:
    limit = KnownLimit()
    assert limit.note_failure(100, 0.0) == 50
    assert limit.note_failure(80, 10.0) == 40
    assert limit.note_failure(96, 10.0) == 40
    assert [limit.note_failure(size, 20.0) for size in (3, 1, 1000)] == [1, 1, 1]
    assert not limit.lapses(619.0)
    assert limit.lapses(620.0)
    assert not limit.lapses(9999.0)
    assert limit.note_failure(1000, 10_000.0) == 500


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "BFCArena::AllocateRawInternal(...) Failed to allocate memory for requested buffer of size 9"
        ),
        RuntimeError(
            "BFCArena ... Available memory of 76148480 is smaller than requested bytes of 268435456"
        ),
        RuntimeError("CUDA failure 2: out of memory ; GPU=0"),
        RuntimeError("CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("bad allocation"),
        MemoryError(),
    ],
    ids=str,
)
def test_the_many_words_for_memory_that_ran_out_are_known(error: Exception) -> None:
    failure = failure_of(error)
    assert isinstance(failure, OutOfMemory)
    assert str(failure) == (str(error) or "MemoryError")


def test_any_other_error_is_told_by_its_first_line() -> None:
    failure = failure_of(ValueError("Got invalid dimensions for input: x\n index: 0\n"))
    assert type(failure) is RunFailed
    assert str(failure) == "Got invalid dimensions for input: x"
    assert str(failure_of(ValueError())) == "ValueError"


# --- the arena ---------------------------------------------------------------------------------


@pytest.fixture
def clock() -> Clock:
    return Clock()


def shrinks(arena: ArenaUse, clock: Clock, sizes: Sequence[int]) -> list[int]:
    """Make a run every second, and give the numbers of those after which the arena is shrunk."""
    found = []
    for number, size in enumerate(sizes):
        clock.now += 1
        if arena.should_shrink(size):
            found.append(number)
    return found


def test_an_arena_is_shrunk_once_a_minute_needed_less_than_half_of_it(clock: Clock) -> None:
    sizes = [1000, *[400] * 200, *[300] * 200]
    assert shrinks(ArenaUse(clock), clock, sizes) == [119]


@pytest.mark.parametrize(("needed", "shrunk_after"), [(500, []), (499, [119])])
def test_an_arena_of_which_half_was_needed_is_left_alone(
    clock: Clock, needed: int, shrunk_after: list[int]
) -> None:
    assert shrinks(ArenaUse(clock), clock, [1000, *[needed] * 150]) == shrunk_after


def test_an_arena_that_large_batches_use_now_and_then_is_left_alone(clock: Clock) -> None:
    sizes = [1000 if number % 60 == 0 else 10 for number in range(600)]
    assert shrinks(ArenaUse(clock), clock, sizes) == []


def test_an_arena_that_was_shrunk_for_another_reason_is_measured_anew(clock: Clock) -> None:
    arena = ArenaUse(clock)
    assert shrinks(arena, clock, [1000]) == []
    arena.forget()
    assert shrinks(arena, clock, [10] * 300) == []


def wide_graph() -> onnx.ModelProto:
    """`y` is the sum of 1 MiB that is made of each row of `x` f32 [N, 2]."""
    outer = np.ones((2, 2**18), dtype=np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "outer"], ["wide"]),
        helper.make_node("Exp", ["wide"], ["larger"]),
        helper.make_node("ReduceMax", ["larger", "axes"], ["y"], keepdims=1),
    ]
    constants = [
        helper.make_tensor("outer", TensorProto.FLOAT, outer.shape, outer.ravel()),
        helper.make_tensor("axes", TensorProto.INT64, [1], [1]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", n]) for name, n in (("x", 2), ("y", 1))
    ]
    graph = helper.make_graph(nodes, "wide", [ends[0]], [ends[1]], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    onnx.save(wide_graph(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def resident_bytes() -> int:
    gc.collect()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def rows(count: int) -> dict[str, NDArray[Any]]:
    return {"x": np.zeros((count, 2), dtype=np.float32)}


def test_a_session_gives_back_what_an_oversize_batch_took(
    wide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(wide, Device("cpu"))
    session.run(rows(1))
    before = resident_bytes()
    session.run(rows(64))
    grown = resident_bytes() - before
    assert grown > 48 * _MIB
    monkeypatch.setattr("service.engine.runtime.memory._WINDOW_SECONDS", 0)
    session.run(rows(1))  # ends the window of the large one
    session.run(rows(1))
    assert resident_bytes() - before < grown / 4


def test_a_session_gives_memory_back_when_it_is_told_to(wide: Path) -> None:
    session = Session(wide, Device("cpu"))
    session.run(rows(1))
    before = resident_bytes()
    session.run(rows(64))
    grown = resident_bytes() - before
    session.shrink(rows(64))
    assert resident_bytes() - before < grown / 4


_LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from service.engine.runtime.memory import OutOfMemory
from service.engine.runtime.session import Device, Session

def status(name):
    return int(Path("/proc/self/status").read_text().partition(name + ":")[2].split()[0]) * 1024

session = Session(Path(sys.argv[1]), Device("cpu"))
rows = lambda count: {"x": np.zeros((count, 2), dtype=np.float32)}
expected = session.run(rows(16))["y"]
resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") + 128 * 2**20,) * 2)
try:
    session.run(rows(1024))
except OutOfMemory as error:
    print("out of memory")
for _ in range(3):
    assert (session.run(rows(16))["y"] == expected).all()
print("goes on")
"""


def test_a_real_session_says_that_memory_ran_out_and_goes_on(wide: Path) -> None:
    command = [sys.executable, "-c", _LIMITED, str(wide)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stdout.split("\n")[:2] == ["out of memory", "goes on"], result.stderr


def test_a_version_that_is_ready_holds_no_memory_of_its_warm_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    run, shrink = Session.run, Session.shrink

    def note_run(session: Session, inputs: Any) -> Any:
        done.append("run")
        return run(session, inputs)

    def note_shrink(session: Session, inputs: Any) -> None:
        done.append("shrink")
        shrink(session, inputs)

    monkeypatch.setattr(Session, "run", note_run)
    monkeypatch.setattr(Session, "shrink", note_shrink)
    make_model(tmp_path)
    lanes = Lanes(Observer())
    try:
        catalog = Catalog(tmp_path, lanes, Observer(), LoadOptions())
        catalog.discover()
        catalog.load()
    finally:
        lanes.stop()
    assert done[-1] == "shrink"
    assert done.count("run") > 1


def test_what_a_batch_that_did_not_fit_left_behind_is_given_back(
    wide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(wide, Device("cpu"))
    runs: list[tuple[int, bool]] = []

    class Full:
        """A device that holds no batch of more than one row."""

        def run(self, names: list[str], inputs: dict[str, NDArray[Any]], options: Any) -> None:
            runs.append((len(inputs["x"]), options is not None))
            if len(inputs["x"]) > 1:
                raise RuntimeError("Failed to allocate memory for requested buffer of size 9")

    monkeypatch.setattr(session, "_session", Full())
    with pytest.raises(OutOfMemory):
        session.run(rows(8))
    assert runs == [(8, False), (1, True)]
