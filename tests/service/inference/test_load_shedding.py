"""Requests that would be late are refused before any work, with the reason that it would be late for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from service.engine.queue.pending_request import PendingRequest
from service.errors import Overloaded
from service.inference.load_shedding import EventLoopLoad, LoadShedding, loop_wait_seconds
from service.inference.request import InferenceRequest

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


def test_what_is_predicted_after_the_first_request() -> None:
    load = EventLoopLoad()
    learn(load, 0.021, 1)
    assert load.seconds_per_request == pytest.approx(0.05 * 0.021 / 1.05)


def test_a_request_that_would_be_answered_at_its_deadline_is_not_late() -> None:
    load = EventLoopLoad()
    load.begin()
    load.check(0.0)


def test_refusals_leave_a_tenth_of_the_loop_at_least() -> None:
    load = EventLoopLoad(clock=lambda: NOW)
    learn(load, 0.021, 1)  # a millisecond
    load.note_refusal(5.0)
    load.begin()
    load.check(0.0201)
    with pytest.raises(Overloaded) as refused:
        load.check(0.015)
    assert refused.value.retry_after_seconds == pytest.approx(0.005)


class FakeQueue:
    """A model's queue that refuses nobody, or everybody."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, float, int]] = []
        self.is_full = False

    def check(self, priority: int, deadline: float, coming: int) -> None:
        self.calls.append((priority, deadline, coming))
        if self.is_full:
            raise Overloaded("full", reason="queue_full")


class FakePool:
    """Decoding threads that work on seven items of the model `m`."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int, float]] = []

    def items(self, model: str) -> int:
        return {"m": 7}[model]

    def check(self, model: str, priority: int, items: int, left_seconds: float) -> None:
        self.calls.append((model, priority, items, left_seconds))


class TestLoadShedding:
    @pytest.fixture(autouse=True)
    def _set_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = NOW
        clock = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr("service.inference.load_shedding.time", clock)
        self.queue, self.pool = FakeQueue(), FakePool()
        pool: Any = self.pool
        self.shedding = LoadShedding(pool)

    def request(self, size_bytes: int, items: int = 0) -> InferenceRequest:
        target: Any = SimpleNamespace(model="m", task=SimpleNamespace(quick_size=100), batcher=self.queue)
        return InferenceRequest(
            "task", items=[b"x"] * items, priority=3, size_bytes=size_bytes, target=target
        )

    def refuse(self) -> None:
        self.queue.is_full = True
        with pytest.raises(Overloaded, match="full"):
            self.shedding.check(self.request(100), NOW + 9)
        self.queue.is_full = False

    def test_the_queue_is_asked_with_what_is_being_decoded_for_it(self) -> None:
        self.shedding.check(self.request(100), NOW + 2)
        assert self.queue.calls == [(3, NOW + 2, 7)]
        assert self.pool.calls == []  # the event loop decodes so small a body

    @pytest.mark.parametrize(("items", "counted"), [(0, 1), (5, 5)])
    def test_the_threads_are_asked_about_larger_bodies(self, items: int, counted: int) -> None:
        self.shedding.check(self.request(101, items), NOW + 2)
        assert self.pool.calls == [("m", 3, counted, 2.0)]

    @pytest.mark.parametrize("late", [0.0, 0.5])
    def test_a_deadline_that_has_passed_is_refused_and_the_queue_not_asked(self, late: float) -> None:
        with pytest.raises(Overloaded) as refused:
            self.shedding.check(self.request(100), NOW - late)
        assert (refused.value.reason, refused.value.retry_after_seconds) == ("deadline", late)
        assert self.queue.calls == []

    def test_the_event_loop_is_asked_for_the_time_that_is_left(self) -> None:
        for _ in range(200):
            learn(self.shedding.loop_load, 0.010, 0)
        self.shedding.loop_load.begin()
        self.shedding.check(self.request(100), NOW + 0.021)
        with pytest.raises(Overloaded) as refused:
            self.shedding.check(self.request(100), NOW + 0.015)
        assert refused.value.reason == "event_loop"

    def test_it_is_refusing_for_a_tenth_of_a_second_after_a_refusal(self) -> None:
        assert not self.shedding.is_refusing
        self.refuse()
        self.now = NOW + 0.099
        assert self.shedding.is_refusing
        self.now = NOW + 0.101
        assert not self.shedding.is_refusing
        self.shedding.check(self.request(100), NOW + 9)
        assert not self.shedding.is_refusing
