"""Verdicts of rows, counters of servers, and the sums of the overload benchmarks."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from benchmarks.load_shedding import possible
from benchmarks.machine import Jitter, measure_jitter
from benchmarks.pairs import Estimate
from benchmarks.report import Row
from benchmarks.servers import Counters
from benchmarks.soak import ResourceUse, mismatches
from benchmarks.traffic import Observed


@pytest.mark.parametrize(
    ("values", "at_least", "verdict"),
    [
        ((0.96, 1.2), True, "yes"),
        ((0.90, 1.2), True, "median only"),
        ((0.5, 0.6), True, "no"),
        ((0.8, 0.9), False, "yes"),
        ((0.8, 1.0), False, "median only"),
        ((1.1, 1.2), False, "no"),
    ],
)
def test_a_goal_is_met_by_the_whole_interval_or_by_the_median_alone(
    values: tuple[float, ...], at_least: bool, verdict: str
) -> None:
    assert Row("x", Estimate.of(values), 0.95, at_least).verdict == verdict


def test_without_a_goal_there_is_no_verdict() -> None:
    assert Row("x", Estimate.of([1.0])).verdict == ""


def test_the_best_possible_goodput_falls_with_the_cost_of_a_refusal() -> None:
    assert possible(2, 0.0) == 1
    assert possible(2, 0.25) == pytest.approx(2 / 3)  # 2/3 served and 4/3 refused at a quarter: 1
    assert possible(5, 0.2) == 0
    assert possible(0.5, 0.25) == 0.5


def test_gaps_of_a_busy_loop_are_summarised() -> None:
    assert Jitter.of([], 1) == Jitter(0, 0, 0, 0)
    found = Jitter.of([0.01, 0.03], 2)
    assert found.gaps_per_second == 1
    assert found.lost_share == pytest.approx(0.02)
    assert found.longest_gap_ms == pytest.approx(30)


def test_jitter_is_measured_in_a_separate_process() -> None:
    assert measure_jitter(min(os.sched_getaffinity(0)), 0.05).lost_share >= 0


def counters(requests: dict[str, int], items: int = 0) -> Counters:
    lines = ["# TYPE kotae_requests_total counter"]
    lines += [f'kotae_requests_total{{route="/v1/x",status="{s}"}} {n}' for s, n in requests.items()]
    lines += ['kotae_requests_total{route="/metrics",status="200"} 7']
    lines += ["# TYPE kotae_items_total counter", f'kotae_items_total{{model="m"}} {items}', ""]
    return Counters.read("\n".join(lines))


NOTHING = counters({"200": 3}, items=3)


def test_equal_counters_are_no_mismatch() -> None:
    seen = Observed(statuses=Counter({200: 5, 404: 1}), items=9)
    assert mismatches(seen, NOTHING, counters({"200": 8, "404": 1}, items=12)) == []


def test_a_request_that_was_not_awaited_may_have_any_status() -> None:
    seen = Observed(statuses=Counter({200: 5}), items=5, abandoned=2)
    assert mismatches(seen, NOTHING, counters({"200": 9, "499": 1}, items=9)) == []
    assert len(mismatches(seen, NOTHING, counters({"200": 9}, items=9))) == 1
    assert len(mismatches(seen, NOTHING, counters({"200": 9, "499": 2}, items=9))) == 1


def test_a_partial_request_may_not_have_been_counted() -> None:
    seen = Observed(statuses=Counter({200: 5}), items=5, truncated=2)
    for counted in ({"200": 8}, {"200": 8, "499": 2}):
        assert mismatches(seen, NOTHING, counters(counted, items=8)) == []


@pytest.mark.parametrize(
    ("requests", "items", "problem"),
    [
        ({"200": 7}, 8, "status 200: the service counted 1 fewer"),
        ({"200": 8, "400": 1}, 8, "status 400: the service counted 1 more"),
        ({"200": 8}, 9, "the service counted 6 items, the clients 5"),
    ],
)
def test_different_counters_are_reported(requests: dict[str, int], items: int, problem: str) -> None:
    seen = Observed(statuses=Counter({200: 5}), items=5)
    assert any(problem in found for found in mismatches(seen, NOTHING, counters(requests, items)))


def test_growth_of_memory_excludes_the_warm_up() -> None:
    assert ResourceUse(resident=[1, 50, 100, 100, 100, 100, 102, 102]).growth() == pytest.approx(0.02)
    assert ResourceUse(resident=[100]).growth() == 0
