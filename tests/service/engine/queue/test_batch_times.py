"""The time table: known runs give known expectations, and one odd run moves little."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.queue.batch_times import Meter, Ratios, TimeTable


def seeded(**seconds_by_size: float) -> TimeTable:
    """A table of sizes given as `s8=0.5`."""
    table = TimeTable()
    for size, seconds in seconds_by_size.items():
        table.seed(int(size[1:]), seconds)
    return table


def test_nothing_is_expected_before_anything_was_timed() -> None:
    table = TimeTable()
    assert (table.seconds(4), table.known, table.largest) == (0.0, 0, 0.0)


def test_one_size_is_taken_as_proportional_above_it_and_as_constant_below() -> None:
    table = seeded(s4=2.0)
    assert [table.seconds(size) for size in (1, 4, 8)] == [2.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("size", "seconds"), [(1, 1.0), (2, 1.5), (3, 2.0), (4, 2.5), (8, 4.5), (16, 8.5), (32, 16.5)]
)
def test_between_and_beyond_what_was_timed_the_line_goes_on(size: int, seconds: float) -> None:
    assert seeded(s1=1.0, s4=2.5, s16=8.5).seconds(size) == pytest.approx(seconds)


def test_beyond_the_largest_size_nothing_gets_quicker() -> None:
    assert seeded(s1=2.0, s4=1.0).seconds(64) == 1.0


def test_the_first_run_of_all_is_believed() -> None:
    table = TimeTable()
    table.record(4, 0.5)
    assert table.seconds(4) == 0.5


def test_a_run_moves_its_own_size_by_a_fifth_of_the_surprise_and_the_others_by_half_of_that() -> None:
    table = seeded(s1=1.0, s8=4.0)
    table.record(8, 6.0)  # half as long again as expected
    assert table.seconds(8) == pytest.approx(4.0 * 1.1)
    assert table.seconds(1) == pytest.approx(1.0 * 1.05)


@pytest.mark.parametrize(("seconds", "counts_as"), [(400.0, 8.0), (0.0001, 2.0)])
def test_one_outlier_counts_as_at_most_twice_or_half_of_what_was_expected(
    seconds: float, counts_as: float
) -> None:
    wild, tame = seeded(s8=4.0), seeded(s8=4.0)
    wild.record(8, seconds)
    tame.record(8, counts_as)
    assert wild.seconds(8) == pytest.approx(tame.seconds(8))


@given(st.floats(1e-4, 10), st.floats(0.2, 5))
def test_runs_that_always_take_as_long_are_soon_expected_to(first: float, factor: float) -> None:
    table = seeded(s8=first)
    for _ in range(60):
        table.record(8, factor * first)
    assert table.seconds(8) == pytest.approx(factor * first, rel=0.01)


@given(st.lists(st.tuples(st.integers(1, 300), st.floats(1e-4, 10)), min_size=1, max_size=60))
def test_whatever_was_seen_the_expectation_is_positive_and_within_it(runs: list[tuple[int, float]]) -> None:
    table = TimeTable()
    for size, seconds in runs:
        table.record(size, seconds)
    for size in (1, 7, 64, 300, 5000):
        assert 0 < table.seconds(size) < math.inf
    assert 1.05 <= table.margin <= 2


@pytest.mark.parametrize(("seconds", "size"), [(0.5, 1), (1.0, 1), (2.0, 3), (4.5, 8), (99.0, 20)])
def test_the_largest_size_that_ends_within_a_time_is_found(seconds: float, size: int) -> None:
    assert seeded(s1=1.0, s16=8.5).largest_within(seconds, 20) == size


def test_the_margin_is_a_guess_until_there_were_enough_runs_and_their_high_quantile_then() -> None:
    table = seeded(s1=1.0, s8=4.0)
    assert table.margin == 1.5
    for _ in range(16):
        table.record(8, table.seconds(8) * 1.3)
    assert table.margin == pytest.approx(1.3)


def test_only_the_last_ratios_count() -> None:
    ratios = Ratios(remembered=10, fewest=2, quantile=0.9)
    assert ratios.empty and ratios.margin(1.4) == 1.4
    for ratio in [1.9] * 10 + [1.2] * 10:
        ratios.add(ratio)
    assert not ratios.empty and ratios.margin(1.4) == 1.2


@pytest.mark.parametrize(("ratio", "margin"), [(0.3, 1.05), (1.7, 1.7), (9.0, 2.0)])
def test_a_margin_stays_within_its_bounds(ratio: float, margin: float) -> None:
    ratios = Ratios(remembered=10, fewest=1, quantile=0.9)
    ratios.add(ratio)
    assert ratios.margin(1.5) == margin


def test_a_meter_tells_the_rate_of_what_comes_evenly_and_forgets_what_came_long_ago() -> None:
    meter = Meter(memory_seconds=1.0)
    for step in range(2000):
        meter.add(0.003, step / 100)
    assert meter.rate(20) == pytest.approx(0.3, rel=0.02)
    assert meter.rate(21) == pytest.approx(0.3 / math.e, rel=0.02)
    assert meter.rate(60) < 1e-9


def test_what_is_old_is_forgotten_when_it_is_asked_for() -> None:
    ratios = Ratios(remembered=10, fewest=1, quantile=0.9, lasting_seconds=5)
    ratios.add(1.9, now=0)
    ratios.add(1.2, now=3)
    assert ratios.margin(1.5, now=4) == 1.9
    assert ratios.margin(1.5, now=6) == 1.2
    assert ratios.margin(1.5, now=60) == 1.5 and ratios.empty


def test_exactly_as_many_ratios_as_asked_for_are_kept() -> None:
    ratios = Ratios(remembered=2, fewest=1, quantile=0.0)
    for ratio in (1.1, 1.2, 1.9):
        ratios.add(ratio)
    assert ratios.margin(1.5) == 1.2


def test_a_meter_with_a_longer_memory_decays_more_slowly() -> None:
    meter = Meter(memory_seconds=2.0)
    meter.add(4.0, 0.0)
    assert [meter.rate(0.0), meter.rate(2.0)] == pytest.approx([2.0, 2.0 / math.e])
