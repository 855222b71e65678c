"""Bound what one turn of the event loop reads, so that a busy loop stays punctual.

Without a bound, an overloaded loop reads every connection that has something, and a turn takes longer than
clients wait. Then every request is late when it is read, and none is answered in time. Here one turn takes as
many requests as fit a short time. The others wait, and the newest of them goes first, because it can still be
in time. A request that has waited for a second gets a short refusal, and its connection is closed.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

_TURN_SECONDS = 0.03  # that a turn should take at most
_FEWEST = 8  # requests of a turn, however long they take
_SMOOTHING = 0.1
_LONGEST_WAIT_SECONDS = 1.0


class Reader(Protocol):
    """A connection that has read the beginning of a request."""

    def take(self, data: bytes, received: float) -> None:
        """Go on with what was read."""

    def turn_away(self) -> None:
        """Refuse what was read, and close the connection."""


class LoopTurns:
    """The turns of one event loop, shared by all its connections.

    Args:
        clock: In seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._is_reading = False
        self._is_busy = False
        self._began = 0.0
        self._before = 0.0
        self._taken = 0
        self._seconds_each = 0.0
        self._waiting: deque[tuple[Reader, bytes, float]] = deque()
        self._is_drain_due = False

    @property
    def most(self) -> int:
        """How many requests this turn takes."""
        if not self._seconds_each:
            return 2**31
        return max(_FEWEST, int(_TURN_SECONDS / self._seconds_each))

    def received(self) -> float:
        """Return the earliest time at which what is read in this turn can have arrived.

        A busy loop reads what has arrived, works on it, and reads again. What arrived meanwhile can have
        waited since the last reading. On an idle loop nothing has waited. New connections and responses are
        work too.
        """
        if not self._is_reading:
            now = self._clock()
            if self._is_busy and self._taken >= _FEWEST:
                seconds = (now - self._began) / self._taken
                self._seconds_each += _SMOOTHING * (seconds - self._seconds_each)
            self._before = self._began if self._is_busy else now
            self._began, self._taken = now, 0
            self._is_reading = self._is_busy = True
            asyncio.get_running_loop().call_soon(self._end_reading)
        return self._before

    def take(self, reader: Reader, data: bytes) -> bool:
        """Decide whether this turn takes a request that begins to be read.

        Returns:
            Whether it does; otherwise `reader.take` or `reader.turn_away` is called later.
        """
        received = self.received()
        if self._taken < self.most:
            self._taken += 1
            return True
        self._waiting.append((reader, data, received))
        self._schedule()
        return False

    def _drain(self) -> None:
        """Take the newest of those that wait; turn away who has waited too long and still finds no place."""
        self._is_drain_due = False
        self.received()
        oldest = self._clock() - _LONGEST_WAIT_SECONDS
        try:
            while self._waiting and self._taken < self.most:
                reader, data, received = self._waiting.pop()
                self._taken += 1
                reader.take(data, received)
            while self._waiting and self._waiting[0][2] < oldest:
                self._waiting.popleft()[0].turn_away()
        finally:
            if self._waiting:
                self._schedule()

    def _schedule(self) -> None:
        if not self._is_drain_due:
            self._is_drain_due = True
            asyncio.get_running_loop().call_soon(self._drain)

    def _end_reading(self) -> None:
        self._is_reading = False
        asyncio.get_running_loop().call_soon(
            self._end_turn
        )  # after the next reading, if there is one at once

    def _end_turn(self) -> None:
        self._is_busy = self._is_reading
