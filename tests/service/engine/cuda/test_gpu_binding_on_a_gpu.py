"""What only a GPU can show of bound sessions: equal answers, captures, copies beside runs, pinned memory."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from service.engine.cuda.device_memory import CudaMemory, pinned
from service.engine.cuda.gpu_session import GpuSession
from service.engine.cuda.providers import GpuOptions
from service.engine.lane.lane import Lane
from service.engine.observer import Observer
from service.engine.queue.batch import BatchLimits, RowSpec
from service.engine.queue.batcher import Batcher
from service.engine.queue.pending_request import PendingRequest
from service.engine.queue.staging import Staging
from service.engine.runtime.device import Device
from service.engine.runtime.run import RunFailed
from service.engine.runtime.session import Session
from service.engine.runtime.shape_buckets import Buckets
from service.repository.golden import read_golden_arrays
from tests.tiny_models import SIZE, tiny_graph

pytestmark = pytest.mark.gpu

MODELS = Path(__file__).resolve().parents[4] / "models"
SHIPPED = sorted(path.parent for path in MODELS.glob("*/*/model.onnx"))
MOST = 24


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    onnx.save(tiny_graph(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def bound(path: Path, *, cuda_graph: bool, most: int = MOST) -> GpuSession:
    session = GpuSession(path, Device("cuda"), gpu=GpuOptions(cuda_graph=cuda_graph))
    session.bind(Buckets(most))
    return session


def pixels(count: int, seed: int) -> dict[str, NDArray[Any]]:
    draw = np.random.default_rng(seed)
    return {"image": draw.integers(0, 256, (count, SIZE, SIZE, 1), dtype=np.uint8)}


def assert_equal(one: Any, other: Any, tolerance: float = 1e-3) -> None:
    for name in other:
        np.testing.assert_allclose(one[name], other[name], atol=tolerance, rtol=1e-3)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_every_bucket_answers_as_the_cpu_does(graph: Path, cuda_graph: bool) -> None:
    session, plain = bound(graph, cuda_graph=cuda_graph), Session(graph, Device("cpu"))
    assert session.captures == cuda_graph
    for count in range(1, MOST + 1):
        for seed in (count, -1 - count):
            rows = pixels(count, abs(seed) + 100 * (seed < 0))
            assert_equal(session.run(rows), plain.run(rows))


@pytest.mark.parametrize("version", SHIPPED, ids=lambda path: path.parent.name)
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_bound_shipped_model_answers_as_the_cpu_does(version: Path, cuda_graph: bool) -> None:
    path = version / "model.onnx"
    session, plain = bound(path, cuda_graph=cuda_graph, most=4), Session(path, Device("cpu"))
    rows, _ = read_golden_arrays(version)
    for count in (1, 2, 3):
        batch = {name: array[:count] for name, array in rows.items()}
        wanted, found = plain.run(batch), session.run(batch)
        if "frames" in wanted:  # beyond an item's own frames stands what padding made
            longest = int(wanted["frames"].max())
            wanted["log_probs"], found["log_probs"] = (
                outputs["log_probs"][:, :longest] for outputs in (wanted, found)
            )
        assert_equal(found, wanted, 5e-3)


def test_a_random_sequence_of_sizes_never_replays_a_wrong_run(graph: Path) -> None:
    session, plain = bound(graph, cuda_graph=True), Session(graph, Device("cpu"))
    draw = random.Random(7)
    for seed in range(500):
        rows = pixels(draw.randint(1, MOST), seed)
        assert_equal(session.run(rows), plain.run(rows))


def test_threads_capture_their_own_runs_and_answer_alike(graph: Path) -> None:
    session, plain = bound(graph, cuda_graph=True), Session(graph, Device("cpu"))
    turn, wrong = threading.Lock(), []

    def work(name: int) -> None:
        assert session.stage is not None
        for seed in range(100):
            rows = pixels(1 + (seed * (name + 3)) % MOST, 1000 * name + seed)
            batch = session.stage(rows)
            with turn:
                batch.run()
            try:
                assert_equal(batch.outputs(), plain.run(rows))
            except AssertionError as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


async def test_a_batch_is_copied_while_another_runs(graph: Path) -> None:
    session = bound(graph, cuda_graph=False)
    runs: list[tuple[float, float]] = []
    copies: list[tuple[float, float]] = []

    class Timed:
        def __init__(self, staged: Any) -> None:
            self._staged = staged
            self.outputs = staged.outputs

        def run(self) -> None:
            began = time.monotonic()
            while time.monotonic() < began + 0.01:  # stands for a graph that takes this long
                self._staged.run()
            runs.append((began, time.monotonic()))

    def stage(arrays: Any) -> Timed:
        began = time.monotonic()
        assert session.stage is not None
        staged = Timed(session.stage(arrays))
        copies.append((began, time.monotonic()))
        return staged

    rows = {"image": RowSpec((SIZE, SIZE, 1), "uint8")}
    batcher = Batcher("m", "1", BatchLimits(max_items=4), rows=rows, observer=Observer(), allocate=pinned)
    lane = Lane("cuda:0", Observer(), threads=2)
    lane.attach(batcher, session.run, stage)
    pending_requests = []
    for seed in range(40):
        pending = PendingRequest(deadline=1e12)
        pending.fill([{"image": pixels(1, seed)["image"][0]}], [1])
        batcher.submit(pending)
        pending_requests.append(pending)
    lane.start()
    try:
        for pending in pending_requests:
            await asyncio.wait_for(pending.outputs(), 20)
    finally:
        lane.stop()
    inside = [copy for copy in copies if any(run[0] < copy[0] and copy[1] < run[1] for run in runs)]
    assert len(inside) >= len(runs) // 2


def test_pinned_buffers_go_round(graph: Path) -> None:
    from cuda.bindings import runtime

    rows = {"image": RowSpec((SIZE, SIZE, 1), "uint8")}
    staging = Staging(rows, 4, Buckets(4), pinned)
    seen = set()
    for _ in range(20):
        batch = staging.close(())
        assert batch._buffers is not None
        pointer = batch._buffers["image"].ctypes.data
        status, facts = runtime.cudaPointerGetAttributes(pointer)
        assert (int(status), facts.type) == (0, runtime.cudaMemoryType.cudaMemoryTypeHost)
        seen.add(pointer)
        staging.reuse(batch.release_buffers(), 1)
    assert len(seen) <= 3


def test_memory_comes_back_as_it_was_copied() -> None:
    memory = CudaMemory(0)
    block = memory.block(4096)
    there = np.random.default_rng(0).integers(0, 256, 4096, dtype=np.uint8)
    back = pinned((4096,), "uint8")
    memory.to_device(block, there)
    memory.to_host(back, block)
    assert (back == there).all()


def test_what_does_not_fit_the_gpu_is_our_error() -> None:
    with pytest.raises(RunFailed, match="out of memory"):
        CudaMemory(0).block(2**60)
