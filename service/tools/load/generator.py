"""Sends the requests of a plan and tallies what comes back, on one event loop.

Every request is an arrival, with the moment at which it was meant to leave: drawn from a Poisson process in
open loop, the moment of the answer before it in closed loop. An arrival takes an idle connection, or a new
one while there may be more, or waits for one; its latency runs on meanwhile.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from service.errors import StartFailed
from service.tools.load.connection import BROKEN, Connection
from service.tools.load.plan import MAX_REQUESTS, Plan
from service.tools.load.tally import Tally

_LOOK_SECONDS = 0.1  # how often progress is told and overdue answers are given up
_SPIN_SECONDS = 0.0015  # timers of an event loop are late by up to a millisecond: the rest is spun
_RETRY_SECONDS = 0.05  # a closed-loop client that was refused a connection comes back after this long

_now = time.perf_counter


@dataclass(slots=True)
class _Flight:
    """A request under way; both times in clock seconds."""

    meant: float
    left: float


class Generator:
    """Makes one load.

    Args:
        plan: What to do.
        tally: Where it is counted.
        watch: Told, now and then, for how many seconds the load has been running.
    """

    def __init__(self, plan: Plan, tally: Tally, watch: Callable[[float], None] = lambda _: None) -> None:
        self._plan = plan
        self._tally = tally
        self._watch = watch
        self._random = random.Random(plan.seed)
        self._tls = plan.address.tls
        self._most_connections = plan.clients or plan.max_connections
        self._connections = 0
        self._idle: list[Connection] = []
        self._flights: dict[Connection, _Flight] = {}
        self._overdue: set[Connection] = set()
        self._waiting: deque[float] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._end = 0.0

    async def run(self) -> float:
        """Make the load and wait for its last answer.

        Returns:
            Seconds that the load lasted: in open loop as planned, in closed loop until the last answer.
        """
        plan = self._plan
        begin = _now()
        self._end = begin + plan.seconds
        last_answer = self._end + plan.timeout_seconds
        arrivals = asyncio.create_task(self._arrivals(begin))
        try:
            while (now := _now()) < last_answer and not (now >= self._end and self._is_quiet()):
                self._watch(now - begin)
                self._give_up_overdue(now)
                await asyncio.sleep(_LOOK_SECONDS if now < self._end else _LOOK_SECONDS / 10)
                if arrivals.done():
                    arrivals.result()
            return plan.seconds if plan.rate else _now() - begin
        finally:
            arrivals.cancel()
            self._close()

    async def _arrivals(self, begin: float) -> None:
        if self._plan.clients:
            for _ in range(self._plan.clients):
                self._arrive(_now())
            return
        meant = begin
        while self._tally.sent < MAX_REQUESTS:
            meant += self._random.expovariate(self._plan.rate)
            if meant >= self._end:
                return
            await asyncio.sleep(0)  # even when late, answers are read between two arrivals
            while (left := meant - _now()) > 0:
                await asyncio.sleep(left - _SPIN_SECONDS if left > 2 * _SPIN_SECONDS else 0)
            self._tally.lags.append(_now() - meant)
            self._arrive(meant)

    def _arrive(self, meant: float) -> None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                self._send(connection, meant)
                return
            self._connections -= 1
        if len(self._waiting) >= self._most_connections:
            self._tally.unsent += 1
            return
        self._waiting.append(meant)
        if self._connections < self._most_connections:
            self._connections += 1
            task = asyncio.create_task(self._open())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self) -> None:
        try:
            connection = await open_connection(self._plan)
        except StartFailed:
            self._connections -= 1
            if self._waiting:
                self._waiting.popleft()
                self._tally.broken += 1
            if self._plan.clients:
                await asyncio.sleep(_RETRY_SECONDS)
                self._arrive_again()
            return
        self._release(connection)

    def _send(self, connection: Connection, meant: float) -> None:
        self._tally.sent += 1
        self._flights[connection] = _Flight(meant, _now())
        connection.ask(self._random.choice(self._plan.requests), self._answered)

    def _answered(self, connection: Connection, status: int) -> None:
        flight = self._flights.pop(connection)
        if status != BROKEN:
            self._tally.record(status, _now() - flight.meant)
        elif connection in self._overdue:
            self._overdue.discard(connection)
            self._tally.unanswered += 1
        else:
            self._tally.broken += 1
        self._release(connection)
        self._arrive_again()

    def _release(self, connection: Connection) -> None:
        """Give a connection to whoever waits for one."""
        if not connection.is_open:
            self._connections -= 1
            if self._waiting:
                self._arrive(self._waiting.popleft())
        elif self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)

    def _arrive_again(self) -> None:
        """In closed loop, a client that has its answer asks again."""
        now = _now()
        if self._plan.clients and now < self._end and self._tally.sent < MAX_REQUESTS:
            self._arrive(now)

    def _is_quiet(self) -> bool:
        return not (self._flights or self._waiting or self._opening)

    def _give_up_overdue(self, now: float) -> None:
        limit = now - self._plan.timeout_seconds
        for connection in [c for c, flight in self._flights.items() if flight.left < limit]:
            self._overdue.add(connection)
            connection.close()

    def _close(self) -> None:
        """Hang up everywhere; what is still under way stays unanswered, what waits was never sent."""
        self._end = 0.0
        self._tally.unsent += len(self._waiting)
        self._waiting.clear()
        for task in self._opening:
            task.cancel()
        for connection in list(self._flights):
            self._overdue.add(connection)
            connection.close()
        for connection in self._idle:
            connection.close()


async def open_connection(plan: Plan) -> Connection:
    """Connect.

    Raises:
        StartFailed: Nobody listens there, or not within the plan's timeout.
    """
    address = plan.address
    try:
        async with asyncio.timeout(plan.timeout_seconds):
            _, connection = await asyncio.get_running_loop().create_connection(
                Connection, address.host, address.port, ssl=plan.address.tls
            )
    except (OSError, TimeoutError) as error:
        reason = str(error) or "no connection in time"
        raise StartFailed(f"nothing answers at {address.host}:{address.port}: {reason}") from error
    return connection


async def ask_once(plan: Plan, request: bytes) -> tuple[int, bytes]:
    """Send one request on a connection of its own.

    Returns:
        Status and body of the answer; status `BROKEN` and no body if the connection ended before it.

    Raises:
        StartFailed: No connection, or no answer within the plan's timeout.
    """
    connection = await open_connection(plan)
    answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def done(_: Connection, status: int) -> None:
        if not answer.done():
            answer.set_result(status)

    connection.ask(request, done)
    try:
        status = await asyncio.wait_for(answer, plan.timeout_seconds)
    except TimeoutError as error:
        raise StartFailed(f"no answer within {plan.timeout_seconds:g} s") from error
    finally:
        connection.close()
    return status, connection.body
