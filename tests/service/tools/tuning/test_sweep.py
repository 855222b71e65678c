"""Which settings are tried, how they are measured, and which is chosen."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.tools.tuning.choice import choose, pareto_front
from service.tools.tuning.items import TuningItem
from service.tools.tuning.sweep import Measurement, TuningSetting, make_batches, settings_for, sweep


def items(*costs: int) -> list[TuningItem]:
    return [TuningItem({"x": np.zeros(cost, dtype=np.float32)}, cost) for cost in costs]


def measured(lanes: int, threads: int, max_items: int, rate: float, batch_ms: float) -> Measurement:
    return Measurement(TuningSetting(lanes, threads, max_items), rate, batch_ms / 1000)


class Fake:
    """A session that counts."""

    def __init__(self, log: list[tuple[int, ...]], problem: Exception | None = None) -> None:
        self._log = log
        self._problem = problem

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        if self._problem:
            raise self._problem
        self._log.append(inputs["x"].shape)
        return inputs


def lanes_and_threads(cpus: int) -> list[tuple[int, int]]:
    return [(setting.lanes, setting.threads) for setting in settings_for(cpus, 1)]


def test_settings_never_use_more_threads_than_there_are_cpus() -> None:
    assert lanes_and_threads(1) == [(1, 1)]
    assert lanes_and_threads(2) == [(1, 1), (1, 2), (2, 1)]
    for cpus in range(1, 70):
        tried = lanes_and_threads(cpus)
        assert max(lanes * threads for lanes, threads in tried) <= cpus
        assert {(1, 1), (1, cpus), (cpus, 1)} <= set(tried)


@pytest.mark.parametrize(("most", "sizes"), [(1, [1]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12])])
def test_batch_sizes_double_up_to_the_largest(most: int, sizes: list[int]) -> None:
    assert [setting.max_items for setting in settings_for(1, most)] == sizes


def test_batches_are_bounded_by_count_cost_and_padding() -> None:
    made = make_batches(items(1, 1, 1, 2, 2, 10, 11, 12, 30), max_items=3, max_cost=24)
    assert [[item.cost for item in batch] for batch in made] == [[1, 1, 1], [2, 2], [10, 11], [12], [30]]


def test_every_setting_is_measured_in_every_round() -> None:
    log: list[tuple[int, ...]] = []
    opened: Counter[tuple[int, int]] = Counter()
    ticks: list[int] = []

    def open_runner(setting: TuningSetting, lane: int) -> Fake:
        assert lane < setting.lanes
        opened[setting.lanes, setting.threads] += 1
        return Fake(log)

    chosen = [setting for setting in settings_for(2, 4) if setting.max_items != 2]
    found = sweep(chosen, items(*[5] * 8), open_runner, seconds=0.01, rounds=3, tick=lambda: ticks.append(1))
    assert [one.setting for one in found] == chosen
    assert len(ticks) == 18
    assert opened == {(1, 1): 3, (1, 2): 3, (2, 1): 6}
    assert {shape[0] for shape in log} == {1, 4}
    for one in found:
        assert one.items_per_second > 0
        assert one.answer_seconds == 2 * one.batch_seconds > 0


def test_lanes_run_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=30)

    class Together(Fake):
        def run(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
            if threading.current_thread() is not threading.main_thread():  # the warm-up runs alone
                both.wait()
            return inputs

    (one,) = sweep([TuningSetting(2, 1)], items(1), lambda *_: Together([]), seconds=0, rounds=2)
    assert one.items_per_second > 0


def test_a_session_that_fails_ends_the_sweep() -> None:
    class FailsLater(Fake):
        def run(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
            if threading.current_thread() is not threading.main_thread():
                raise ValueError("no")
            return inputs

    with pytest.raises(ValueError, match="no"):
        sweep([TuningSetting(1, 1)], items(1), lambda *_: FailsLater([]), seconds=0, rounds=1)


ALL = [
    measured(1, 1, 1, 100, 10),
    measured(1, 1, 4, 180, 22),
    measured(1, 1, 8, 175, 45),  # slower and longer than 4
    measured(1, 2, 1, 150, 7),
    measured(2, 1, 8, 260, 61),
    measured(2, 1, 16, 262, 122),
]


def test_no_setting_beats_one_on_the_pareto_front() -> None:
    assert pareto_front(ALL) == [ALL[3], ALL[1], ALL[4], ALL[5]]


@pytest.mark.parametrize(
    ("deadline_ms", "best"),
    [
        (10, None),
        (17, 3),  # 1.2 × 2 × 7 ms
        (60, 1),
        (150, 4),
        (1000, 4),  # 16 at a time are not 3% faster than 8, and wait twice as long
    ],
)
def test_the_fastest_setting_that_meets_the_deadline_is_chosen(deadline_ms: float, best: int | None) -> None:
    assert choose(ALL, deadline_ms / 1000) == (None if best is None else ALL[best])
