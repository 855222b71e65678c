"""Requests that would be late are refused before any work, with the reason that it would be late for."""

from __future__ import annotations

import numpy as np
import pytest

from service.engine.queue.pending_request import PendingRequest
from service.errors import Overloaded
from service.inference.decoding_pool import DecodingPool
from service.inference.load_shedding import EventLoopLoad, LoadShedding

NOW = 1000.0


def pending() -> PendingRequest:
    pending = PendingRequest(deadline=NOW)
    pending.fill([{"x": np.zeros(1)}], [1])
    pending.close()
    return pending


def test_an_idle_loop_refuses_nobody() -> None:
    load = EventLoopLoad()
    for _ in range(200):
        load.learn(9.0, 0)
    load.check(0.000001)


def test_a_busy_loop_refuses_with_the_time_after_which_it_would_answer() -> None:
    load = EventLoopLoad()
    load.in_progress = 10
    for _ in range(200):
        load.learn(0.011, 10)  # a millisecond for each of eleven
    load.check(0.021)
    with pytest.raises(Overloaded) as refused:
        load.check(0.015)
    assert refused.value.reason == "event_loop"
    assert refused.value.retry_after_seconds == pytest.approx(0.005, abs=0.0005)


def test_requests_with_many_before_them_say_more_than_requests_alone() -> None:
    load = EventLoopLoad()
    for _ in range(200):
        load.learn(0.010, 19)  # half a millisecond each
        load.learn(0.002, 0)  # the loop's own way there and back
    assert load.seconds_per_request == pytest.approx(0.012 / 21, rel=0.1)


def test_a_negative_wait_counts_as_none() -> None:
    load = EventLoopLoad()
    load.learn(1.0, 0)
    before = load.seconds_per_request
    load.learn(-5.0, 0)
    assert load.seconds_per_request == pytest.approx(before * 0.95 / 1.0, rel=0.01)


async def test_the_lane_accounts_for_no_more_than_it_was_predicted_to_need() -> None:
    shedding = LoadShedding(DecodingPool(1))
    waited, expired = pending(), pending()
    waited.queue_seconds, waited.infer_seconds = 0.05, 0.01
    for _ in range(200):
        shedding.learn(waited, 0.07, 0.02, 0)
    assert shedding.loop_load.seconds_per_request == pytest.approx(0.05, rel=0.01)
    for _ in range(200):
        shedding.learn(expired, 0.09, 0.02, 0)  # it never ran
    assert shedding.loop_load.seconds_per_request == pytest.approx(0.07, rel=0.01)


async def test_a_request_that_ran_faster_than_predicted_waited_for_the_loop_all_the_rest() -> None:
    shedding = LoadShedding(DecodingPool(1))
    ran = pending()
    ran.queue_seconds, ran.infer_seconds = 0.002, 0.003
    for _ in range(200):
        shedding.learn(ran, 0.025, 0.02, 0)
    assert shedding.loop_load.seconds_per_request == pytest.approx(0.02, rel=0.01)
