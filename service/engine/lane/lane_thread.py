"""The threads of a lane, its threads, and the functions that others have run on them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from service.engine.lane.schedule import Placement
from service.engine.queue.batcher import Batcher
from service.engine.queue.pending_request import Item
from service.errors import KotaeError

_Result = TypeVar("_Result")


class LaneStopped(KotaeError):
    """The lane takes no more work."""


class LaneJob:
    """A function that a lane's thread runs between two batches, while nothing else is on the device.

    Attributes:
        future: Its result or exception.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self.future: Future[Any] = Future()
        self._function = function

    def run(self, device: threading.Lock) -> None:
        """Run it in the device's turn; only what ends the thread is raised."""
        try:
            with device:
                result = self._function()
            self.future.set_result(result)
        except BaseException as error:
            self.future.set_exception(error)
            if not isinstance(error, Exception):
                raise

    def refuse(self, reason: str) -> None:
        """Let the caller know that it will not run."""
        self.future.set_exception(LaneStopped(reason))


class LaneThread:
    """One thread of a lane.

    Attributes:
        restarts: Deaths in a row.
        jobs: What only this thread shall run.
        busy_since: When its batch was claimed, or None.
        running: What it has claimed and not settled.
        under_way: Whose batch the schedule believes it is busy with.
        device_seconds: How long its last batch kept the device from others.
    """

    def __init__(self) -> None:
        self.thread = threading.Thread()
        self.restarts = 0
        self.jobs: deque[LaneJob] = deque()
        self.busy_since: float | None = None
        self.running: tuple[Batcher, Sequence[Item]] | None = None
        self.under_way: Placement[Batcher] | None = None
        self.device_seconds = 0.0
