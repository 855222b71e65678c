"""Which items of a failed batch get an answer, and what is reported."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pytest

from service.engine.lane.failure_isolation import FailureIsolation, inference_failed
from service.engine.lane.outputs import NotFinite, WrongOutputs
from service.engine.lane.schedule import Placement
from service.engine.observer import Observer
from service.engine.queue.batch import BatchLimits
from service.engine.queue.batcher import Batcher
from service.engine.queue.pending_request import Item, Settlement
from service.engine.runtime.memory import OutOfMemory
from service.engine.runtime.run import Arrays, in_place
from service.errors import InferenceFailed
from tests.service.engine.engine_tools import batcher_of, pending_of


class Calls(Observer):
    """Keep the reports of failures."""

    def __init__(self) -> None:
        self.seen: list[tuple[object, ...]] = []

    def batch_failed(self, *facts: object) -> None:
        self.seen.append(("failed", *facts))

    def out_of_memory(self, *facts: object) -> None:
        self.seen.append(("memory", *facts))


class Isolation:
    """A batch of four items that failed, and whose parts run again."""

    def __init__(self, run: Callable[[np.ndarray], np.ndarray]) -> None:
        self.sizes: list[int] = []
        self.observer = Calls()
        self.batcher: Batcher = batcher_of(BatchLimits(max_items=8))
        for size in (1, 8):
            self.batcher.seed(size, 0.01)
        self.items: tuple[Item, ...] = pending_of(0, 1, 2, 3).items
        self.isolation = FailureIsolation("cpu", self.observer, self._run_again)
        self._run = run
        self._placement = Placement(self.batcher, self._never, in_place(self._never), 0.0)

    def isolate(self, error: Exception) -> list[object]:
        """The answer to each item, or its error."""
        return self.answers(self.isolation.isolate(self._placement, self.items, error))

    def answers(self, settlements: list[Settlement]) -> list[object]:
        results = {item.index: result for item, result in settlements}
        assert sorted(results) == [0, 1, 2, 3]
        return [
            "error" if isinstance(result, InferenceFailed) else float(result["y"][0])  # type: ignore[index]
            for _, result in sorted(results.items())
        ]

    def _run_again(self, placement: Placement[Batcher], arrays: Arrays) -> Arrays:
        assert placement is self._placement
        self.sizes.append(len(arrays["x"]))
        return {"y": self._run(arrays["x"])}

    @staticmethod
    def _never(arrays: Arrays) -> Arrays:
        raise AssertionError("parts run by `run_again`")


def failing_at(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def run(x: np.ndarray) -> np.ndarray:
        if value in x[:, 0]:
            raise RuntimeError("bad item")
        return x * 2

    return run


async def test_all_but_the_culprit_get_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    batch = Isolation(failing_at(2))
    assert batch.isolate(RuntimeError("bad item")) == [0, 2, "error", 6]
    assert batch.sizes == [2, 2, 1, 1]
    assert batch.observer.seen == [("failed", "m", "1")] * 3
    assert [record.getMessage() for record in caplog.records] == [
        f"{count} items failed on cpu for m" for count in (4, 2, 1)
    ]
    assert all(record.exc_info and str(record.exc_info[1]) == "bad item" for record in caplog.records)


async def test_the_log_names_the_requests_of_the_items_that_failed(caplog: pytest.LogCaptureFixture) -> None:
    batch = Isolation(failing_at(9))
    batch.items[0].pending.label = "abc"
    assert batch.isolate(RuntimeError("once")) == [0, 2, 4, 6]
    assert [vars(record)["request_ids"] for record in caplog.records] == [["abc"]]


async def test_what_does_not_fit_is_halved_without_blame(caplog: pytest.LogCaptureFixture) -> None:
    batch = Isolation(lambda x: x * 2)
    assert batch.isolate(OutOfMemory("no memory")) == [0, 2, 4, 6]
    assert batch.sizes == [2, 2]
    assert batch.observer.seen == [("memory", "m", "1", "cpu")]
    assert batch.batcher._memory.size == 2
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "4 items of m do not fit cpu, and are halved: no memory")
    ]


async def test_two_items_that_do_not_fit_are_halved_too() -> None:
    batch = Isolation(lambda x: x * 2)
    pair = batch.items[:2]
    settlements = batch.isolation.isolate(batch._placement, pair, OutOfMemory("no memory"))
    assert [(item, float(result["y"][0])) for item, result in settlements] == [(pair[0], 0), (pair[1], 2)]  # type: ignore[index]
    assert batch.sizes == [1, 1]
    assert batch.observer.seen == [("memory", "m", "1", "cpu")]


async def test_an_item_that_does_not_fit_alone_failed() -> None:
    batch = Isolation(lambda x: x * 2)
    batch.items = batch.items[:1]
    settlements = batch.isolation.isolate(batch._placement, batch.items, OutOfMemory("no memory"))
    assert [(item, type(result)) for item, result in settlements] == [(batch.items[0], InferenceFailed)]
    assert batch.observer.seen == [("memory", "m", "1", "cpu"), ("failed", "m", "1")]
    assert batch.sizes == []
    assert batch.batcher._memory.size == 1


async def test_a_wrong_number_of_rows_fails_all_items_of_a_part_at_once() -> None:
    batch = Isolation(lambda x: x[:1] if 3 in x[:, 0] else x * 2)
    assert batch.isolate(RuntimeError("once")) == [0, 2, "error", "error"]
    assert batch.sizes == [2, 2]
    whole = Isolation(lambda x: x)
    assert whole.isolate(WrongOutputs("three rows")) == ["error"] * 4
    assert whole.sizes == []


async def test_rows_of_a_part_that_are_not_finite_fail_alone(caplog: pytest.LogCaptureFixture) -> None:
    batch = Isolation(lambda x: np.where(x == 1, np.nan, x * 2))
    assert batch.isolate(RuntimeError("once")) == [0, "error", 4, 6]
    assert batch.observer.seen == [("failed", "m", "1")] * 2
    record = caplog.records[-1]
    assert record.getMessage() == "1 items failed on cpu for m"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], NotFinite)
    assert str(record.exc_info[1]) == "the graph gave NaN or infinity"


async def test_the_error_of_a_failed_item_says_where_the_reason_is() -> None:
    (item,) = pending_of(1).items
    text = "the inference failed; the request id finds the reason in the server's log"
    assert [(one, str(error)) for one, error in inference_failed([item])] == [(item, text)]


async def test_finite_outputs_are_no_failure() -> None:
    batch = Isolation(lambda x: x)
    settlements = batch.isolation.settle(batch.batcher, batch.items, {"y": np.arange(4.0).reshape(4, 1)})
    assert batch.answers(settlements) == [0, 1, 2, 3]
    assert batch.observer.seen == []
