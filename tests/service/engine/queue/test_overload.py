"""The engine under load, in made-up time: what was let in is answered in time, and the lane stays busy."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from service.engine.queue.batch import BatchLimits
from tests.service.engine.simulation import Load, Stream, one_sided, simulate

PICTURE_SECONDS = 0.02
NOISE = 0.1
MEAN_NOISE = 1 + NOISE * 0.798  # the mean size of a normal number
NOISY_PEAK = 1 / (PICTURE_SECONDS * MEAN_NOISE)


def pictures(size: float) -> float:
    """A graph that gains nothing from batches."""
    return PICTURE_SECONDS * size


def texts(size: float) -> float:
    """A small encoder on a CPU: 2 ms, and 0.11 ms a token."""
    return 0.002 + 0.00011 * size


def device(size: float) -> float:
    """A small graph on a large device: 1 ms whatever is in the batch."""
    return 0.001 + 0.000025 * size


def tokens(draw: random.Random) -> int:
    return int(min(256, max(8, draw.lognormvariate(3.47, 0.8))))


def always(seconds: float) -> Callable[[random.Random], float]:
    return lambda draw: seconds


def limits(deadline: float, **others: int) -> BatchLimits:
    return BatchLimits(deadline_seconds=deadline, **others)


@pytest.mark.parametrize("times", [1.2, 2, 5])
def test_a_graph_that_gains_nothing_from_batches_is_kept_busy_and_late_answers_are_rare(times: float) -> None:
    rate = times * NOISY_PEAK
    load = Load(pictures, limits(0.2), [Stream(rate, always(0.2))], noise=one_sided(NOISE))
    [[outcome]] = simulate([load], 60)
    assert outcome.in_time / 60 >= 0.95 * NOISY_PEAK
    assert outcome.late_share <= 0.005


@pytest.mark.parametrize("times", [1.2, 5])
def test_a_device_that_needs_full_batches_gets_them_under_overload(times: float) -> None:
    peak = 128 / device(128)
    load = Load(device, limits(0.05, max_items=128), [Stream(times * peak, always(0.05))])
    [[outcome]] = simulate([load], 0.5)
    assert outcome.in_time >= 0.9 * 0.5 * peak
    assert outcome.late == 0


@pytest.mark.parametrize("times", [1.2, 2])
def test_a_deadline_of_two_batches_costs_little_of_what_a_noisy_device_can_do(times: float) -> None:
    most = 160  # of which two are done in 10 ms
    peak = most / device(most) / MEAN_NOISE
    stream = Stream(times * peak, always(0.01))
    sizes = (1, 2, 4, 8, 16, 32, 64, 128)
    load = Load(device, limits(0.01, max_items=512), [stream], seeds=sizes, noise=one_sided(NOISE))
    [[outcome]] = simulate([load], 1)
    assert outcome.in_time >= 0.9 * peak
    assert outcome.late_share <= 0.005


@pytest.mark.parametrize("times", [1.2, 5])
def test_texts_of_unequal_length_are_batched_with_their_like_and_kept_in_time(times: float) -> None:
    one_by_one = 1 / 0.0068  # the mean over the lengths
    load = Load(
        texts,
        limits(0.08, max_cost=1024),
        [Stream(times * 1.3 * one_by_one, always(0.08), tokens)],
        uniform=False,
        seeds=(8, 16, 32, 64, 128, 256),
        noise=one_sided(NOISE),
    )
    [[outcome]] = simulate([load], 30)
    assert outcome.in_time / 30 >= 1.1 * one_by_one
    assert outcome.late_share <= 0.005


@pytest.mark.parametrize("lanes", [2, 4])
def test_several_lanes_are_kept_busy_and_promised_no_more_than_they_do(lanes: int) -> None:
    load = Load(
        pictures, limits(0.2), [Stream(1.5 * lanes * NOISY_PEAK, always(0.2))], noise=one_sided(NOISE)
    )
    [[outcome]] = simulate([load], 30, lanes=lanes)
    assert outcome.in_time / 30 >= 0.95 * lanes * NOISY_PEAK
    assert outcome.late_share <= 0.005


def test_several_lanes_refuse_next_to_nothing_below_their_limit() -> None:
    load = Load(pictures, limits(0.1), [Stream(4 * 0.85 / PICTURE_SECONDS, always(0.1))])
    [[outcome]] = simulate([load], 60, lanes=4)
    assert outcome.refused + outcome.late <= 0.001 * outcome.offered


def test_after_a_lane_died_the_others_are_promised_to_do_their_own_share_only() -> None:
    load = Load(pictures, limits(0.2), [Stream(3 * NOISY_PEAK, always(0.2))], noise=one_sided(NOISE))
    [[outcome]] = simulate([load], 40, lanes=2, deaths=[20])
    assert outcome.in_time >= 0.95 * NOISY_PEAK * (20 * 2 + 20)
    waited = 2 * 0.2 / PICTURE_SECONDS  # at most so many had been predicted an answer by two
    assert outcome.late <= waited / 2 + 0.005 * outcome.in_time
    assert outcome.failed <= 2  # what the dead lane ran


def test_below_its_limit_the_lane_refuses_next_to_nothing() -> None:
    load = Load(pictures, limits(1.0), [Stream(0.7 / PICTURE_SECONDS, always(1.0))])
    [[outcome]] = simulate([load], 60)
    assert outcome.refused + outcome.late <= 0.001 * outcome.offered


def test_deadlines_of_all_kinds_in_one_queue_are_kept() -> None:
    streams = [Stream(0.7 / PICTURE_SECONDS, always(seconds)) for seconds in (0.1, 0.4, 2)]
    load = Load(pictures, limits(1.0), streams, noise=one_sided(NOISE))
    outcomes = simulate([load], 60)[0]
    assert sum(outcome.in_time for outcome in outcomes) / 60 >= 0.95 * NOISY_PEAK
    assert all(outcome.in_time > 0.1 * outcome.offered for outcome in outcomes)
    assert sum(outcome.late for outcome in outcomes) <= 0.005 * sum(o.in_time for o in outcomes)


def test_high_priority_waits_for_one_batch_under_any_load_of_low_priority() -> None:
    streams = [
        Stream(0.05 / PICTURE_SECONDS, always(0.5), priority=1),
        Stream(3 / PICTURE_SECONDS, always(0.5)),
    ]
    high, low = simulate([Load(pictures, limits(0.5), streams)], 100)[0]
    assert high.refused == high.late == 0
    [[alone]] = simulate([Load(pictures, limits(0.5), streams[:1])], 100)
    residual = PICTURE_SECONDS  # of one batch of low priority
    for share in (0.5, 0.95, 0.99):  # high ones wait for one another whatever the load of low ones
        assert high.percentile(share) <= 1.1 * (alone.percentile(share) + residual)
    assert low.in_time / 100 >= 0.85 / PICTURE_SECONDS


def test_two_overloaded_models_get_their_fair_shares_and_keep_their_deadlines() -> None:
    small = Load(lambda size: 0.0003 + 0.0005 * size, limits(0.1), [Stream(4000, always(0.1))])
    large = Load(pictures, limits(0.2), [Stream(100, always(0.2))])
    [[quick], [slow]] = simulate([small, large], 10)
    assert quick.in_time / 10 >= 0.85 * 0.5 / 0.00051
    assert slow.in_time / 10 >= 0.85 * 0.5 / PICTURE_SECONDS
    assert quick.late + slow.late <= 0.01 * (quick.in_time + slow.in_time)


def test_a_model_that_asks_for_little_is_served_beside_an_overloaded_one() -> None:
    small = Load(device, limits(0.06, max_items=32), [Stream(100, always(0.06))])
    large = Load(pictures, limits(0.2), [Stream(100, always(0.2))])
    [[quick], [_]] = simulate([small, large], 20)
    assert quick.in_time >= 0.99 * quick.offered
