"""What was refused after decoding is refused before it, for a while and no more than its like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.engine.queue.pending_request import PendingRequest
from service.errors import Overloaded
from service.inference.backlog import Backlog
from service.inference.refusals import Refusals
from service.repository.loader import Version
from service.repository.manifest import ModelManifest

NOW = 1000.0


def version(number: int = 1, **fields: object) -> Version:
    manifest = ModelManifest.model_validate({"name": "m", "task": "image-classification", **fields})
    return Version("m", number, Path("m"), manifest)


def pending(deadline: float, costs: tuple[int, ...] = (1,), priority: int = 2) -> PendingRequest:
    pending = PendingRequest(deadline=deadline, priority=priority)
    pending.fill([{"x": np.zeros(1)} for _ in costs], costs)
    pending.close()
    return pending


def late(seconds: float, reason: str = "deadline") -> Overloaded:
    return Overloaded("late", reason=reason, retry_after_seconds=seconds)


def is_refused(
    refusals: Refusals, left: float, now: float, *, of: Version | None = None, priority: int = 2
) -> bool:
    try:
        refusals.check(of or version(), priority, now + left, now)
    except Overloaded as refused:
        assert refused.reason == "door"
        return True
    return False


async def test_its_like_is_refused_while_it_cannot_be_done_in_time() -> None:
    refusals = Refusals()
    assert not is_refused(refusals, 0.5, NOW)
    refusals.note(version(), pending(NOW + 0.5), late(0.08), NOW)  # it needs 0.58 s
    assert is_refused(refusals, 0.5, NOW)
    assert is_refused(refusals, 0.501, NOW)  # before its decoding, the next one has a little more
    assert is_refused(refusals, 0.5, NOW + 0.039)
    assert not is_refused(refusals, 0.5, NOW + 0.041)
    with pytest.raises(Overloaded) as refused:
        refusals.check(version(), 2, NOW + 0.52, NOW + 0.02)
    assert refused.value.retry_after_seconds == pytest.approx(0.06)


async def test_who_has_enough_time_another_priority_or_another_version_is_let_through() -> None:
    refusals = Refusals()
    refusals.note(version(), pending(NOW + 0.5), late(0.08), NOW)
    assert not is_refused(refusals, 0.59, NOW)
    assert not is_refused(refusals, 0.5, NOW, priority=1)
    assert not is_refused(refusals, 0.5, NOW, priority=3)
    assert not is_refused(refusals, 0.5, NOW, of=version(2))


async def test_who_would_stand_before_it_is_let_through() -> None:
    refusals = Refusals()
    refusals.note(version(), pending(NOW + 0.5), late(0.08), NOW)
    assert not is_refused(refusals, 0.49, NOW)


async def test_one_is_let_through_ten_times_a_second_however_late_it_would_be() -> None:
    refusals = Refusals()
    refusals.note(version(), pending(NOW + 0.5), late(3600), NOW)
    assert is_refused(refusals, 0.5, NOW + 0.09)
    assert not is_refused(refusals, 0.5, NOW + 0.11)


@pytest.mark.parametrize("costs", [(2,), (1, 1), (300,)])
async def test_what_cost_more_than_another_might_is_no_example(costs: tuple[int, ...]) -> None:
    refusals = Refusals()
    refusals.note(version(), pending(NOW + 0.5, costs), late(0.08), NOW)
    assert not is_refused(refusals, 0.5, NOW)


async def test_a_full_queue_is_no_example_because_any_batch_makes_room() -> None:
    refusals = Refusals()
    refusals.note(version(), pending(NOW + 0.5), late(0.08, "queue_full"), NOW)
    assert not is_refused(refusals, 0.5, NOW)


async def test_where_answers_are_kept_nobody_is_refused_unseen() -> None:
    refusals, cached = Refusals(), version(answer_cache_bytes=1000)
    refusals.note(cached, pending(NOW + 0.5), late(0.08), NOW)
    assert not is_refused(refusals, 0.5, NOW, of=cached)


def test_no_time_left_is_refused_at_once() -> None:
    assert is_refused(Refusals(), 0.0, NOW)
    assert is_refused(Refusals(), -0.2, NOW)


class TestBacklog:
    def test_an_idle_loop_refuses_nobody(self) -> None:
        backlog = Backlog()
        backlog.count = 1
        for _ in range(200):
            backlog.learn(9.0, 0)
        backlog.count = 0
        backlog.check(0.000001)

    def test_too_much_to_do_is_refused_with_a_time_to_come_back(self) -> None:
        backlog = Backlog()
        backlog.count = 10
        for _ in range(200):
            backlog.learn(0.011, 10)  # a millisecond for each of eleven
        backlog.check(0.021)
        with pytest.raises(Overloaded) as refused:
            backlog.check(0.015)
        assert refused.value.reason == "door"
        assert refused.value.retry_after_seconds == pytest.approx(0.005, abs=0.0005)

    def test_who_waited_for_many_tells_more_than_who_waited_alone(self) -> None:
        backlog = Backlog()
        for _ in range(200):
            backlog.learn(0.010, 19)  # half a millisecond each
            backlog.learn(0.002, 0)  # the loop's own way there and back
        assert backlog.each_seconds == pytest.approx(0.012 / 21, rel=0.1)

    async def test_the_lane_answers_for_no_more_than_it_was_predicted_to_need(self) -> None:
        backlog, waited, expired = Backlog(), pending(NOW), pending(NOW)
        waited.queue_seconds, waited.infer_seconds = 0.05, 0.01
        for _ in range(200):
            backlog.learn_from(waited, 0.07, 0.02, 0)
        assert backlog.each_seconds == pytest.approx(0.05, rel=0.01)
        for _ in range(200):
            backlog.learn_from(expired, 0.09, 0.02, 0)  # it never ran
        assert backlog.each_seconds == pytest.approx(0.07, rel=0.01)
