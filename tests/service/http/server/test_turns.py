"""One turn of the event loop takes a bounded number of requests; the newest of the others goes first."""

from __future__ import annotations

import asyncio

from service.http.server.turns import LoopTurns


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Connection:
    """Notes what becomes of its requests."""

    def __init__(self, log: list[tuple[str, bytes, float]]) -> None:
        self._log = log

    def take(self, data: bytes, received: float) -> None:
        self._log.append(("take", data, received))

    def turn_away(self) -> None:
        self._log.append(("turn away", b"", 0.0))


async def go_round() -> None:
    """Let the loop end its reading and its turn."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def slow_turns(turns: LoopTurns, clock: Clock, seconds: float, requests: int) -> None:
    """Have the loop learn how long a turn takes with so many requests."""
    connection = Connection([])
    for _ in range(200):
        for _ in range(requests):
            turns.take(connection, b"")
        await asyncio.sleep(0)
        clock.now += seconds
    turns.received()


async def test_what_a_busy_loop_reads_may_have_waited_since_it_read_before() -> None:
    clock = Clock()
    turns = LoopTurns(clock)
    assert turns.received() == 100.0  # it was idle
    clock.now = 100.1
    assert turns.received() == 100.0  # read in one go with the first
    await asyncio.sleep(0)
    clock.now = 102.0  # its work took so long
    assert turns.received() == 100.0
    await asyncio.sleep(0)
    clock.now = 103.0
    assert turns.received() == 102.0
    await go_round()
    clock.now = 104.0
    assert turns.received() == 104.0  # nothing was there to read in between


async def test_an_unknown_loop_takes_everything() -> None:
    turns = LoopTurns(Clock())
    assert all(turns.take(Connection([]), b"") for _ in range(5000))


async def test_a_turn_takes_as_many_requests_as_fit_thirty_milliseconds() -> None:
    clock = Clock()
    turns = LoopTurns(clock)
    await slow_turns(turns, clock, seconds=0.02, requests=20)  # a millisecond each
    assert turns.most == 30
    await go_round()
    taken = [turns.take(Connection([]), b"") for _ in range(50)]
    assert taken == [True] * 30 + [False] * 20


async def test_a_turn_takes_a_few_however_long_they_take() -> None:
    clock = Clock()
    turns = LoopTurns(clock)
    await slow_turns(turns, clock, seconds=10.0, requests=20)
    assert turns.most == 8


async def test_the_newest_of_those_that_wait_goes_first() -> None:
    clock, log = Clock(), list[tuple[str, bytes, float]]()
    turns = LoopTurns(clock)
    await slow_turns(turns, clock, seconds=0.02, requests=20)
    await go_round()
    began = clock.now
    for number in range(100):
        turns.take(Connection(log), b"%d" % number)
    assert log == []
    while len(log) < 70:
        await asyncio.sleep(0)
        clock.now += 0.01
    assert [data for _, data, _ in log] == [b"%d" % number for number in range(99, 29, -1)]
    assert {kind for kind, _, _ in log} == {"take"}
    assert {received for _, _, received in log} == {began}


async def test_who_has_waited_for_a_second_and_finds_no_place_is_turned_away() -> None:
    clock, log = Clock(), list[tuple[str, bytes, float]]()
    turns = LoopTurns(clock)
    await slow_turns(turns, clock, seconds=0.02, requests=20)
    await go_round()
    for _ in range(100):
        turns.take(Connection(log), b"")
    clock.now += 1.01  # 70 wait; the next turn takes some of them
    while len(log) < 70:
        await asyncio.sleep(0)
    kinds = [kind for kind, _, _ in log]
    assert kinds.count("take") == turns.most >= 8
    assert kinds.count("turn away") == 70 - kinds.count("take")


async def test_after_a_stall_who_finds_a_place_is_not_turned_away() -> None:
    clock, log = Clock(), list[tuple[str, bytes, float]]()
    turns = LoopTurns(clock)
    await slow_turns(turns, clock, seconds=0.02, requests=20)
    await go_round()
    for _ in range(33):
        turns.take(Connection(log), b"")
    clock.now += 5.0
    while len(log) < 3:
        await asyncio.sleep(0)
    assert [kind for kind, _, _ in log] == ["take"] * 3


async def test_a_connection_that_fails_keeps_nobody_else_waiting() -> None:
    class Broken(Connection):
        def take(self, data: bytes, received: float) -> None:
            raise RuntimeError("forced")

    loop, failures = asyncio.get_running_loop(), list[object]()
    loop.set_exception_handler(lambda _, context: failures.append(context))
    clock, log = Clock(), list[tuple[str, bytes, float]]()
    turns = LoopTurns(clock)
    await slow_turns(turns, clock, seconds=0.02, requests=20)
    await go_round()
    for _ in range(30):
        turns.take(Connection([]), b"")
    turns.take(Connection(log), b"sound")
    turns.take(Broken(log), b"broken")
    for _ in range(4):
        await go_round()
    assert len(failures) == 1
    assert [data for _, data, _ in log] == [b"sound"]
