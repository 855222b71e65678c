"""Stand-ins for the engine's tests: a clock that tests move, a run function that tests steer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.lane.lane import Lane
from service.engine.observer import BatchReport, Observer
from service.engine.queue.batch import BatchLimits, RowSpec
from service.engine.queue.batcher import Batcher
from service.engine.queue.pending_request import PendingRequest

ROWS = {"x": RowSpec((2,), "float32")}


class Clock:
    """Time that moves only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Recorder(Observer):
    """Keeps what the engine reported."""

    def __init__(self) -> None:
        self.batches: list[BatchReport] = []
        self.dropped: list[str] = []
        self.failures = 0
        self.out_of_memories: list[str] = []
        self.deaths: list[BaseException] = []
        self.shared = 0
        self.cache_asked_for: list[tuple[int, int]] = []
        self.cache_sizes: list[int] = []

    def batch_done(self, report: BatchReport) -> None:
        self.batches.append(report)

    def batch_failed(self, model: str, version: str) -> None:
        self.failures += 1

    def out_of_memory(self, model: str, version: str, device: str) -> None:
        self.out_of_memories.append(device)

    def item_dropped(self, model: str, version: str, reason: str) -> None:
        self.dropped.append(reason)

    def items_shared(self, model: str, version: str, items: int) -> None:
        self.shared += items

    def cache_asked(self, model: str, version: str, hits: int, misses: int) -> None:
        self.cache_asked_for.append((hits, misses))

    def cache_sized(self, model: str, version: str, size_bytes: int) -> None:
        self.cache_sizes.append(size_bytes)

    def lane_died(self, device: str, error: BaseException) -> None:
        self.deaths.append(error)


class Double:
    """A graph that doubles its input, can be held shut, and fails where it is told to.

    Attributes:
        sizes: Items of every run, failed ones included.
        fail: Called with the inputs of every run; what it raises, the run raises.
    """

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.started = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()
        self.fail: Callable[[NDArray[Any]], None] = lambda x: None

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        x = inputs["x"]
        self.sizes.append(len(x))
        self.started.release()
        assert self.gate.wait(20), "the test forgot to open the gate"
        self.fail(x)
        return {"y": x * 2}


def pending_of(
    *values: float, deadline: float = 1e12, costs: list[int] | None = None, priority: int = 2
) -> PendingRequest:
    """A pending whose items are [value, value]."""
    pending = PendingRequest(deadline=deadline, priority=priority)
    rows = [{"x": np.full(2, value, dtype=np.float32)} for value in values]
    pending.fill(rows, costs or [1] * len(rows))
    return pending


def batcher_of(
    limits: BatchLimits | None = None,
    *,
    observer: Observer | None = None,
    rows: Mapping[str, RowSpec] | None = ROWS,
    **more: Any,
) -> Batcher:
    """A batcher of a model named m."""
    return Batcher("m", "1", limits or BatchLimits(), rows=rows, observer=observer or Observer(), **more)


def lane_of(
    batcher: Batcher, run: Double, *, observer: Observer | None = None, restart_limit: int = 5
) -> Lane:
    """A started lane that serves one model."""
    lane = Lane("cpu", observer or Observer(), restart_limit=restart_limit)
    lane.attach(batcher, run)
    lane.start()
    return lane
