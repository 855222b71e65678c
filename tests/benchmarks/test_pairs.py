"""Medians, their intervals, and the order of interleaved measuring."""

from __future__ import annotations

import random

import pytest

from benchmarks.pairs import Estimate, interleaved, ratios


def test_six_values_are_needed_for_95_percent() -> None:
    assert Estimate.of([3, 1, 2]) == Estimate(2, 1, 3, 0.75, (3, 1, 2))
    six = Estimate.of([5, 3, 1, 2, 4, 6])
    assert (six.median, six.low, six.high) == (3.5, 1, 6)
    assert six.confidence == pytest.approx(1 - 2 / 64)


def test_more_values_leave_out_the_extremes() -> None:
    nine = Estimate.of(range(1, 10))  # P(at most one of nine below the median) = 10/512
    assert (nine.low, nine.high) == (2, 8)
    assert nine.confidence == pytest.approx(1 - 2 * 10 / 512)


def test_one_value_has_no_confidence() -> None:
    assert Estimate.of([7.0]) == Estimate(7, 7, 7, 0, (7,))


@pytest.mark.parametrize("count", [6, 12, 25])
def test_the_interval_covers_the_true_median_with_its_confidence(count: int) -> None:
    drawn = random.Random(count)
    held, trials = 0, 4000
    for _ in range(trials):
        estimate = Estimate.of(drawn.expovariate(1) for _ in range(count))
        held += estimate.low <= 0.6931 <= estimate.high  # ln 2 is the median
    assert estimate.confidence >= 0.95
    assert held / trials == pytest.approx(estimate.confidence, abs=0.015)


def test_the_order_is_reversed_from_round_to_round() -> None:
    done: list[str] = []

    def note(name: str) -> str:
        done.append(name)
        return name

    ticks: list[int] = []
    found = interleaved(3, lambda: note("a"), lambda: note("b"), tick=lambda: ticks.append(1))
    assert found == [("a", "b")] * 3
    assert "".join(done) == "abbaab"
    assert len(ticks) == 6


def test_ratios_are_of_pairs() -> None:
    assert ratios([(2.0, 1.0), (9.0, 3.0)]).values == (2.0, 3.0)
    assert ratios([(1.0, 2.0, 4.0)], over=2).values == (0.25,)
