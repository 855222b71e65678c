"""For how long a batch keeps the device from others, and when the next one may be claimed."""

from __future__ import annotations

import threading
from collections.abc import Callable

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


@pytest.mark.parametrize(
    "signal", [DeviceTurns.end_claim, DeviceTurns.wake], ids=["the batch runs", "there is something to do"]
)
def test_while_a_batch_is_staged_no_other_is_claimed_and_the_waiting_thread_is_woken(
    signal: Callable[[DeviceTurns], None],
) -> None:
    lock, schedule, looked = threading.Lock(), Schedule[Batcher](), threading.Event()

    def clock() -> float:
        looked.set()
        return 1000.0

    turns, waited = DeviceTurns(lock, clock, overlapped=True), list[bool]()
    turns.note_claim()

    def wait() -> None:
        with lock:
            waited.append(turns.wait_until_claimable(schedule))

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    assert looked.wait(20)
    with lock:  # the thread has released it, so it waits
        assert waited == []
    signal(turns)
    thread.join(5)
    assert waited == [True]


def test_a_claim_that_ended_lets_another_thread_claim() -> None:
    lock, schedule = threading.Lock(), Schedule[Batcher]()
    turns = DeviceTurns(lock, Clock(), overlapped=True)
    turns.note_claim()
    turns.end_claim()
    with lock:
        assert not turns.wait_until_claimable(schedule)


def test_the_next_batch_is_claimed_early_enough_for_its_copy() -> None:
    lock, clock = threading.Lock(), Clock()
    turns, schedule = DeviceTurns(lock, clock, overlapped=True), Schedule[Batcher]()
    turns.note_staged(0.4)  # a fifth of it counts, and a quarter more for safety: 0.1
    schedule.began(clock.now, 0.2)  # a twentieth of it counts: 0.01
    with lock:
        clock.now += 0.08
        assert turns.wait_until_claimable(schedule)
        clock.now += 0.01
        assert not turns.wait_until_claimable(schedule)


def test_one_thread_notes_nothing() -> None:
    lock = threading.Lock()
    turns = DeviceTurns(lock, Clock(), overlapped=False)
    turns.note_staged(1.0)
    with lock:  # nothing waits for the lane's lock here
        turns.note_claim()
        turns.end_claim()
        turns.wake()
