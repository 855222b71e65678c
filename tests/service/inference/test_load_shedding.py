"""Requests that would be late are refused before any work, with the reason that it would be late for."""

from __future__ import annotations

import numpy as np
import pytest

from service.engine.queue.pending_request import PendingRequest
from service.errors import Overloaded
from service.inference.load_shedding import EventLoopLoad, loop_wait_seconds

NOW = 1000.0


def pending() -> PendingRequest:
    pending = PendingRequest(deadline=NOW)
    pending.fill([{"x": np.zeros(1)}], [1])
    pending.close()
    return pending


def learn(load: EventLoopLoad, wait_seconds: float, requests_ahead: int) -> None:
    """Show it a request that began behind so many others and waited so long."""
    load.in_progress += requests_ahead
    visit = load.begin()
    load.end(visit, wait_seconds)
    load.in_progress -= requests_ahead


def test_an_idle_loop_refuses_nobody() -> None:
    load = EventLoopLoad()
    for _ in range(200):
        learn(load, 9.0, 0)
    load.check(0.000001)


def test_a_busy_loop_refuses_with_the_time_after_which_it_would_answer() -> None:
    load = EventLoopLoad()
    for _ in range(200):
        learn(load, 0.011, 10)  # a millisecond for each of eleven
    load.in_progress = 10
    load.check(0.021)
    with pytest.raises(Overloaded) as refused:
        load.check(0.015)
    assert refused.value.reason == "event_loop"
    assert refused.value.retry_after_seconds == pytest.approx(0.005, abs=0.0005)


def test_requests_with_many_before_them_say_more_than_requests_alone() -> None:
    load = EventLoopLoad()
    for _ in range(200):
        learn(load, 0.010, 19)  # half a millisecond each
        learn(load, 0.002, 0)  # the loop's own way there and back
    assert load.seconds_per_request == pytest.approx(0.012 / 21, rel=0.1)


def test_a_negative_wait_counts_as_none() -> None:
    load = EventLoopLoad()
    for _ in range(200):
        learn(load, 1.0, 0)
    learn(load, -5.0, 0)
    assert load.seconds_per_request == pytest.approx(0.95, rel=0.01)


def test_a_request_that_tells_nothing_of_the_loop_is_only_counted() -> None:
    load = EventLoopLoad()
    visit = load.begin()
    assert load.in_progress == 1
    load.end(visit, None)
    assert (load.in_progress, load.seconds_per_request) == (0, 0.0)


def test_time_spent_on_refusals_is_not_blamed_on_the_requests_in_progress() -> None:
    load = EventLoopLoad()
    for _ in range(200):
        visit = load.begin()
        load.note_refusal(0.040)
        load.end(visit, 0.041)
    assert load.seconds_per_request == pytest.approx(0.001, rel=0.01)


def test_a_loop_that_is_busy_with_refusals_has_less_time_for_the_others() -> None:
    now = 100.0
    load = EventLoopLoad(clock=lambda: now)
    for _ in range(200):
        learn(load, 0.010, 0)
    load.in_progress = 1
    load.check(0.021)
    for _ in range(2000):  # half of the time, for long
        now += 0.01
        load.note_refusal(0.005)
    load.check(0.042)
    with pytest.raises(Overloaded):
        load.check(0.035)


async def test_the_lane_accounts_for_no_more_than_it_was_predicted_to_need() -> None:
    request = pending()
    assert loop_wait_seconds(request, 0.09, 0.02) == pytest.approx(0.07)  # it never ran
    request.queue_seconds, request.infer_seconds = 0.05, 0.01
    assert loop_wait_seconds(request, 0.07, 0.02) == pytest.approx(0.05)
    request.queue_seconds, request.infer_seconds = 0.002, 0.003
    assert loop_wait_seconds(request, 0.025, 0.02) == pytest.approx(0.02)  # it ran faster than predicted
