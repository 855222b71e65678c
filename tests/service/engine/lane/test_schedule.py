"""Which model a lane serves next, and what it promises others of its time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest

from service.engine.lane.schedule import Placement, Schedule

FAIRNESS_SECONDS = 0.05


@dataclass(eq=False)
class Line:
    """A queue as a lane sees it."""

    deadline: float = math.inf
    claimable: float = 0.0
    backlog_seconds: float = 0.0
    full_seconds: float = 0.1
    tight_seconds: float = 1.0
    waits: bool = True

    @property
    def pressing(self) -> float:
        return self.deadline

    def head(self) -> tuple[float, float] | None:
        return (self.claimable, self.deadline) if self.waits else None


def lane_of(*lines: Line) -> Schedule[Line]:
    schedule: Schedule[Line] = Schedule()
    for line in lines:
        schedule.add(line, lambda arrays: arrays)
    return schedule


def placement_of(schedule: Schedule[Line], line: Line) -> Placement[Line]:
    return next(placement for placement in schedule.placements if placement.queue is line)


def picked(schedule: Schedule[Line], now: float = 0.0) -> Line | None:
    placement, _ = schedule.pick(now)
    return placement.queue if placement else None


def run(schedule: Schedule[Line], line: Line, seconds: float, now: float = 0.0) -> None:
    """Serve a batch that ends now."""
    schedule.began(now - seconds, seconds)
    schedule.ended(placement_of(schedule, line), seconds, now)


# --- whose turn it is -----------------------------------------------------------------------


def test_without_work_the_lane_waits_until_it_is_woken() -> None:
    assert lane_of(Line(waits=False), Line(waits=False)).pick(0) == (None, None)


def test_a_delayed_batch_is_waited_for() -> None:
    line = Line(claimable=7.0)
    schedule = lane_of(line, Line(claimable=9.0))
    assert schedule.pick(4.0) == (None, 3.0)
    assert picked(schedule, 7.0) is line


def test_the_most_pressing_deadline_goes_first_while_shares_are_equal() -> None:
    urgent = Line(deadline=1.0)
    assert picked(lane_of(Line(deadline=2.0), urgent, Line(deadline=3.0))) is urgent


def test_who_used_much_more_time_waits_however_pressing_it_is() -> None:
    greedy, modest = Line(deadline=1.0), Line(deadline=9.0)
    schedule = lane_of(greedy, modest)
    run(schedule, greedy, 0.049)
    assert picked(schedule) is greedy
    run(schedule, greedy, 0.002)
    assert picked(schedule) is modest


def test_two_that_always_wait_get_equal_shares() -> None:
    short, long = Line(deadline=1.0), Line(deadline=2.0)
    schedule = lane_of(short, long)
    took = {short: 0.01, long: 0.07}
    used = dict.fromkeys(took, 0.0)
    for _ in range(1000):
        line = picked(schedule)
        assert line is not None
        used[line] += took[line]
        run(schedule, line, took[line])
    assert abs(used[short] - used[long]) <= FAIRNESS_SECONDS + max(took.values())


def test_time_that_was_not_used_is_not_saved_up() -> None:
    busy, idle = Line(deadline=1.0), Line(deadline=2.0, waits=False)
    schedule = lane_of(busy, idle)
    for _ in range(100):
        assert picked(schedule) is busy
        run(schedule, busy, 1.0)
    idle.waits, turns = True, 0
    while picked(schedule) is idle:
        run(schedule, idle, 0.02)
        turns += 1
    assert 0 < turns * 0.02 < 1.0 + 3 * FAIRNESS_SECONDS


def test_a_newcomer_among_models_begins_with_the_least_that_anybody_used() -> None:
    old, older, new = Line(), Line(), Line()
    schedule = lane_of(old, older)
    run(schedule, old, 5.0)
    run(schedule, older, 6.0)
    schedule.add(new, lambda arrays: arrays)
    assert placement_of(schedule, new).used_seconds == 5.0
    schedule.remove(old)
    assert [placement.queue for placement in schedule.placements] == [older, new]


# --- what is predicted -----------------------------------------------------------------------


def test_an_idle_lane_delays_nobody() -> None:
    line = Line()
    assert lane_of(line).delay(line, 1.0, 10.0, 0.0) == 0


def test_the_rest_of_what_runs_is_waited_for_and_what_is_overdue_may_take_as_long_again() -> None:
    line = Line()
    schedule = lane_of(line)
    schedule.began(100.0, 0.5)
    assert schedule.delay(line, 1.0, 200.0, 100.2) == pytest.approx(0.3)
    assert schedule.delay(line, 1.0, 200.0, 100.7) == pytest.approx(0.2)
    schedule.ended(placement_of(schedule, line), 0.7, 100.7)
    assert (schedule.frees_at, schedule.running_seconds) == (None, 0.0)
    assert schedule.delay(line, 1.0, 200.0, 100.7) == 0


def test_a_batch_that_was_claimed_meanwhile_comes_after_the_one_that_runs() -> None:
    line = Line()
    schedule = lane_of(line)
    schedule.began(100.0, 0.5)
    schedule.began(100.4, 0.3)
    assert (schedule.frees_at, schedule.running_seconds) == (100.8, 0.5)
    schedule.ended(placement_of(schedule, line), 0.5, 100.5)
    assert schedule.frees_at == pytest.approx(100.8)


def test_a_model_that_neither_waits_nor_came_of_late_delays_nobody() -> None:
    mine, other = Line(), Line(waits=False)
    assert lane_of(mine, other).delay(mine, 1.0, 10.0, 0.0) == 0


def test_another_model_delays_by_what_it_has_waiting() -> None:
    mine, other = Line(deadline=5.0), Line(deadline=1.0, backlog_seconds=0.3)
    assert lane_of(mine, other).delay(mine, 10.0, 5.0, 0.0) == pytest.approx(0.3)


def test_but_not_by_more_than_its_fair_share() -> None:
    mine, other = Line(deadline=5.0), Line(deadline=1.0, backlog_seconds=60.0, full_seconds=0.1)
    expected = 1.0 + FAIRNESS_SECONDS
    assert expected <= lane_of(mine, other).delay(mine, 1.0, 5.0, 0.0) <= expected + other.full_seconds


def test_who_has_used_less_is_waited_for_until_shares_are_equal() -> None:
    mine, other = Line(deadline=5.0), Line(deadline=1.0, backlog_seconds=60.0, full_seconds=0.1)
    schedule = lane_of(mine, other)
    before = schedule.delay(mine, 1.0, 5.0, 1000.0)
    run(schedule, mine, 2.0)
    assert schedule.delay(mine, 1.0, 5.0, 1000.0) == pytest.approx(before + 2.0)


@pytest.mark.parametrize(("deadline", "expected"), [(2.0, 0.5), (2.5, 0.5), (3.0, 0.6)])
def test_another_model_gets_whole_batches_until_shares_are_equal(deadline: float, expected: float) -> None:
    mine, other = Line(), Line(deadline=2.5, backlog_seconds=60.0, full_seconds=0.1)
    schedule = lane_of(mine, other)
    placement_of(schedule, mine).used_seconds = 5.1
    placement_of(schedule, other).used_seconds = 5.0
    # 0.42 of work, 0.1 that the other used less, and 0.05 more or less for the deadline: up to whole batches.
    assert schedule.delay(mine, 0.42, deadline, 0.0) == pytest.approx(expected)


def test_a_model_that_used_much_less_waits_for_no_other() -> None:
    mine, other = Line(), Line(deadline=1.0, backlog_seconds=60.0)
    schedule = lane_of(mine, other)
    placement_of(schedule, other).used_seconds = 5.0
    assert schedule.delay(mine, 1.0, 2.0, 0.0) == 0.0


def test_a_model_that_is_not_served_here_waits_for_the_running_batch_alone() -> None:
    other = Line(deadline=1.0, backlog_seconds=9.0)
    schedule = lane_of(other)
    schedule.began(100.0, 0.5)
    assert schedule.delay(Line(), 1.0, 200.0, 100.2) == pytest.approx(0.3)


def test_a_model_that_took_the_whole_lane_is_expected_to_leave_a_tenth() -> None:
    mine, other = Line(), Line(waits=False, full_seconds=0.0)
    schedule = lane_of(mine, other)
    placement_of(schedule, mine).used_seconds = 1000.0
    schedule.charge(placement_of(schedule, other), 5.0, 20.0)
    assert schedule.delay(mine, 0.5, 100.0, 20.0) == pytest.approx(9 * 0.5)


@pytest.mark.parametrize(("share", "is_considered"), [(0.0095, False), (0.0105, True)])
def test_a_model_counts_as_busy_from_a_hundredth_of_the_lane_on(share: float, is_considered: bool) -> None:
    mine, other = Line(), Line(tight_seconds=0.05)
    schedule = lane_of(mine, other)
    schedule.charge(placement_of(schedule, other), share, 7.0)
    patience = schedule.patience(placement_of(schedule, mine), 7.0)
    assert patience == (0.025 if is_considered else math.inf)


def test_what_another_model_goes_on_bringing_is_expected_too() -> None:
    mine, other = Line(), Line(waits=False, full_seconds=0.01)
    schedule = lane_of(mine, other)
    for step in range(400):  # of late it took half of the lane
        run(schedule, other, 0.025, step * 0.05)
    placement_of(schedule, mine).used_seconds = placement_of(schedule, other).used_seconds
    assert schedule.delay(mine, 0.5, 100.0, 20.0) == pytest.approx(0.5, rel=0.1)


def test_a_batch_takes_at_most_half_of_the_deadline_of_others_that_are_busy() -> None:
    mine, busy, idle = Line(), Line(tight_seconds=0.05), Line(tight_seconds=0.01)
    schedule = lane_of(mine, busy, idle)
    assert schedule.patience(placement_of(schedule, mine), 0.0) == math.inf
    schedule.charge(placement_of(schedule, busy), 0.2, 0.0)
    assert schedule.patience(placement_of(schedule, mine), 0.0) == 0.025
    assert schedule.patience(placement_of(schedule, busy), 0.0) == math.inf
    calm = Line(tight_seconds=3.0)
    schedule.add(calm, lambda arrays: arrays)
    schedule.charge(placement_of(schedule, calm), 0.2, 0.0)
    assert schedule.patience(placement_of(schedule, mine), 0.0) == 0.025
    assert schedule.patience(placement_of(schedule, mine), 60.0) == math.inf
