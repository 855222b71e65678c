"""For how long a batch keeps the device from others, and when the next one may be claimed."""

from __future__ import annotations

import threading

import pytest

from service.engine.lane.device_turns import DeviceTurns
from service.engine.lane.schedule import Schedule
from service.engine.queue.batcher import Batcher
from tests.service.engine.engine_tools import Clock


def take(turns: DeviceTurns, clock: Clock, since: float, begins: float, ends: float) -> float:
    """Hold the device for a while and return the seconds that are counted."""
    counted: list[float] = []
    clock.now = begins
    with turns.take(since, counted.append) as begun:
        assert begun == begins
        clock.now = ends
    (seconds,) = counted
    return seconds


def test_a_batch_counts_from_its_claim_or_from_when_the_device_was_free_for_it() -> None:
    clock = Clock()
    turns = DeviceTurns(threading.Lock(), clock, overlapped=True)
    assert take(turns, clock, since=4.0, begins=10.0, ends=12.0) == 8.0
    assert take(turns, clock, since=11.0, begins=13.0, ends=15.0) == 3.0
    assert take(turns, clock, since=20.0, begins=20.0, ends=21.0) == 1.0


def test_a_batch_that_fails_counts_too_and_leaves_the_device() -> None:
    clock, counted = Clock(), list[float]()
    turns = DeviceTurns(threading.Lock(), clock, overlapped=False)
    with pytest.raises(ZeroDivisionError), turns.take(clock.now, counted.append):
        clock.now += 2
        raise ZeroDivisionError
    assert counted == [2.0]
    assert not turns.lock.locked()


def test_a_lane_with_one_thread_never_waits_to_claim() -> None:
    lock, clock = threading.Lock(), Clock()
    turns, schedule = DeviceTurns(lock, clock, overlapped=False), Schedule[Batcher]()
    schedule.began(clock.now, 9.0)
    with lock:
        turns.note_claim()
        assert not turns.wait_until_claimable(schedule)


def test_a_second_thread_waits_until_the_device_is_about_to_be_free() -> None:
    lock, clock = threading.Lock(), Clock()
    turns, schedule = DeviceTurns(lock, clock, overlapped=True), Schedule[Batcher]()
    schedule.began(clock.now, 0.01)
    with lock:
        assert turns.wait_until_claimable(schedule)  # for 10 ms less the lead, then it looks again
        clock.now += 0.01
        assert not turns.wait_until_claimable(schedule)
