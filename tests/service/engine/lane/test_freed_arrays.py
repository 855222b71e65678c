"""Arrays are freed when a batch or a job is over, without help of the garbage collector, failed or not.

An exception keeps its traceback, which keeps each frame and its variables. If one of them leads back to the
exception, the arrays stay until the collector finds the cycle.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from service.engine.lane.lane import Lane
from service.engine.observer import Observer
from service.engine.queue.batch import BatchLimits
from service.engine.queue.batcher import Batcher
from service.engine.runtime.memory import OutOfMemory
from service.engine.runtime.run import Arrays, RunFailed, Stage, in_place
from service.engine.runtime.session import Device, Session
from service.errors import InferenceFailed
from tests.service.engine.engine_tools import batcher_of, pending_of
from tests.tiny_models import tiny_graph

pytestmark = pytest.mark.skipif(
    "MUTANT_UNDER_TEST" in os.environ,
    reason="mutmut calls each function through one that keeps its arguments",
)

Refs = list[weakref.ref[Any]]


@pytest.fixture(autouse=True)
def collector_is_off(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No cycle is collected, and no log record keeps a traceback for the test's report."""
    monkeypatch.setattr(logging.getLogger("service"), "disabled", True)
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("service"):
            monkeypatch.setattr(logging.getLogger(name), "disabled", True)
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def failing(error: Callable[[], BaseException], refs: Refs) -> Callable[[Arrays], Arrays]:
    """Make a run that fails if the value 3 is in the batch, and notes its inputs."""

    def run(arrays: Arrays) -> Arrays:
        x = arrays["x"]
        refs.append(weakref.ref(x))
        if (x == 3).any():
            raise error()
        return {"y": x * 2}

    return run


def stage_failing(run: Callable[[Arrays], Arrays], refs: Refs) -> Stage:
    def stage(arrays: Arrays) -> Any:
        refs.append(weakref.ref(arrays["x"]))
        if len(arrays["x"]) > 1:
            raise RunFailed("the copy failed")
        return in_place(run)(arrays)

    return stage


async def serve(batcher: Batcher, lane: Lane) -> None:
    """Run four items in one batch; one of them is the culprit."""
    pending = pending_of(1, 2, 4)
    culprit = pending_of(3)
    batcher.submit(pending)
    batcher.submit(culprit)
    lane.start()
    with pytest.raises(InferenceFailed):
        await asyncio.wait_for(culprit.outputs(), 20)
    with contextlib.suppress(InferenceFailed):  # of a thread that dies
        await asyncio.wait_for(pending.outputs(), 20)
    await asyncio.wrap_future(lane.call(lambda: None))


async def until_freed(refs: Refs) -> None:
    """Wait while a thread still leaves the frames of what it ran."""
    for _ in range(5000):
        if not alive(refs):
            return
        await asyncio.sleep(0.001)
    assert alive(refs) == 0


def alive(refs: Refs) -> int:
    assert refs, "nothing ran"
    return sum(ref() is not None for ref in refs)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("staging_fails", [False, True])
@pytest.mark.parametrize(
    "error",
    [lambda: RunFailed("bad"), lambda: OutOfMemory("too large"), lambda: SystemExit("killed")],
    ids=["failed", "out of memory", "died"],
)
async def test_a_failed_batch_frees_its_arrays(
    threads: int, staging_fails: bool, error: Callable[[], BaseException]
) -> None:
    refs: Refs = []
    batcher = batcher_of(BatchLimits(max_items=4), rows=None)  # ragged: every batch has arrays of its own
    lane = Lane("cpu", Observer(), threads=threads)
    run = failing(error, refs)
    lane.attach(batcher, run, stage_failing(run, refs) if staging_fails else None)
    try:
        await serve(batcher, lane)
        await until_freed(refs)
    finally:
        lane.stop()


async def test_a_job_frees_its_arrays_when_its_future_is_gone() -> None:
    refs: Refs = []
    run = failing(lambda: RunFailed("bad"), refs)
    lane = Lane("cpu", Observer())
    lane.start()

    def call(value: float) -> bool:
        arrays = {"x": np.full((1, 2), value)}
        refs.append(weakref.ref(arrays["x"]))
        return lane.call(lambda: run(arrays)).exception(20) is None

    try:
        assert (call(1), call(3)) == (True, False)
        await until_freed(refs)
    finally:
        lane.stop()


def test_a_failed_run_of_a_session_frees_its_inputs(tmp_path: Path) -> None:
    onnx.save(tiny_graph(), tmp_path / "model.onnx")
    session = Session(tmp_path / "model.onnx", Device("cpu"))
    inputs = {"image": np.zeros((1, 2, 2, 1), dtype=np.uint8)}
    ref = weakref.ref(inputs["image"])
    with contextlib.suppress(RunFailed):
        session.run(inputs)
    del inputs
    assert ref() is None
