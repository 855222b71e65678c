"""Sends the requests of a plan and records the answers, on one event loop.

Each request has a due time: a point of a Poisson process in open loop, the time of the previous answer in
closed loop. It takes an idle connection, or opens a new one up to the limit, or waits for one. Its latency
counts from the due time in every case.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import deque
from collections.abc import Callable

from service.errors import StartFailed
from service.tools.load.connection import BROKEN, ClientConnection
from service.tools.load.plan import MAX_REQUESTS, LoadPlan
from service.tools.load.results import LoadRecorder

_CHECK_SECONDS = 0.1  # how often progress is reported and timeouts are checked
_SPIN_SECONDS = 0.0015  # event loop timers are late by up to a millisecond, so the rest is a busy wait
_RETRY_SECONDS = 0.05  # how long a closed-loop client waits after a refused connection

_now = time.perf_counter


class LoadGenerator:
    """Generates one load.

    Args:
        plan: What to send.
        recorder: Where answers are recorded.
        on_progress: Called now and then with the elapsed seconds.
    """

    def __init__(
        self, plan: LoadPlan, recorder: LoadRecorder, on_progress: Callable[[float], None] = lambda _: None
    ) -> None:
        self._plan = plan
        self._recorder = recorder
        self._on_progress = on_progress
        self._random = random.Random(plan.seed)
        first = self._random.randrange(len(plan.requests))
        self._requests = itertools.cycle(plan.requests[first:] + plan.requests[:first])
        self._max_connections = plan.clients or plan.max_connections
        self._connection_count = 0
        self._idle: list[ClientConnection] = []
        self._in_flight: set[ClientConnection] = set()
        self._waiting: deque[float] = deque()  # due times of requests without a connection
        self._opening: set[asyncio.Task[None]] = set()
        self._end = 0.0

    async def run(self) -> float:
        """Generate the load and wait for the last answer.

        Returns:
            Duration in seconds: as planned in open loop, until the last answer in closed loop.
        """
        plan = self._plan
        begin = _now()
        self._end = begin + plan.seconds
        arrivals = asyncio.create_task(self._arrivals(begin))
        try:
            while (now := _now()) < self._end + plan.timeout_seconds:
                if now >= self._end and not (self._in_flight or self._waiting or self._opening):
                    break
                self._on_progress(now - begin)
                self._close_timed_out(now)
                await asyncio.sleep(_CHECK_SECONDS if now < self._end else _CHECK_SECONDS / 10)
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
        due = begin
        while self._recorder.sent < MAX_REQUESTS:
            due += self._random.expovariate(self._plan.rate)
            if due >= self._end:
                return
            await asyncio.sleep(0)  # answers are read between two arrivals even when arrivals are late
            while (left := due - _now()) > 0:
                await asyncio.sleep(left - _SPIN_SECONDS if left > 2 * _SPIN_SECONDS else 0)
            self._recorder.lags.append(_now() - due)
            self._arrive(due)

    def _arrive(self, due: float) -> None:
        self._recorder.due += 1
        self._dispatch(due)

    def _dispatch(self, due: float) -> None:
        """Send a request, or let it wait for a connection."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                self._send(connection, due)
                return
            self._connection_count -= 1
        if len(self._waiting) >= self._max_connections:
            self._recorder.unsent += 1
            return
        self._waiting.append(due)
        if self._connection_count < self._max_connections:
            self._connection_count += 1
            task = asyncio.create_task(self._open())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self) -> None:
        try:
            connection = await open_connection(self._plan)
        except StartFailed:
            self._connection_count -= 1
            if self._waiting:
                self._waiting.popleft()
                self._recorder.broken += 1
            if self._plan.clients:
                await asyncio.sleep(_RETRY_SECONDS)
                self._next_of_client()
            return
        self._release(connection)

    def _send(self, connection: ClientConnection, due: float) -> None:
        self._recorder.sent += 1
        self._in_flight.add(connection)
        connection.due, connection.sent = due, _now()
        connection.send(next(self._requests), self._on_answer)

    def _on_answer(self, connection: ClientConnection, status: int) -> None:
        self._in_flight.discard(connection)
        if status != BROKEN:
            self._recorder.record(status, _now() - connection.due)
        elif connection.timed_out:
            self._recorder.unanswered += 1
        else:
            self._recorder.broken += 1
        self._release(connection)
        self._next_of_client()

    def _release(self, connection: ClientConnection) -> None:
        """Use a connection for the next waiting request, else store it as idle."""
        if not connection.is_open:
            self._connection_count -= 1
            if self._waiting:
                self._dispatch(self._waiting.popleft())
        elif self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)

    def _next_of_client(self) -> None:
        """In closed loop, send the client's next request."""
        now = _now()
        if self._plan.clients and now < self._end and self._recorder.sent < MAX_REQUESTS:
            self._arrive(now)

    def _close_timed_out(self, now: float) -> None:
        limit = now - self._plan.timeout_seconds
        for connection in [one for one in self._in_flight if one.sent < limit]:
            connection.timed_out = True
            connection.close()

    def _close(self) -> None:
        """Close all connections. Requests in flight count as unanswered, waiting ones as unsent."""
        self._end = 0.0
        self._recorder.unsent += len(self._waiting)
        self._waiting.clear()
        for task in self._opening:
            task.cancel()
        for connection in list(self._in_flight):
            connection.timed_out = True
            connection.close()
        for connection in self._idle:
            connection.close()


async def open_connection(plan: LoadPlan) -> ClientConnection:
    """Return a new connection.

    Raises:
        StartFailed: The connection was refused or took longer than the plan's timeout.
    """
    address = plan.address
    try:
        async with asyncio.timeout(plan.timeout_seconds):
            _, connection = await asyncio.get_running_loop().create_connection(
                ClientConnection, address.host, address.port, ssl=address.tls
            )
    except (OSError, TimeoutError) as error:
        reason = str(error) or "no connection in time"
        raise StartFailed(f"no connection to {address.host}:{address.port}: {reason}") from error
    return connection


async def send_once(plan: LoadPlan, request: bytes) -> tuple[int, bytes]:
    """Send one request on a new connection.

    Returns:
        Status and body of the answer. The status is `BROKEN` if the connection ended before the answer.

    Raises:
        StartFailed: No connection, or no answer within the plan's timeout.
    """
    connection = await open_connection(plan)
    try:
        status = await asyncio.wait_for(connection.request(request), plan.timeout_seconds)
    except TimeoutError as error:
        raise StartFailed(f"no answer within {plan.timeout_seconds:g} s") from error
    finally:
        connection.close()
    return status, connection.body
