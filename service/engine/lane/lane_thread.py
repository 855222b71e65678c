"""The threads of a lane, and the functions that others have run on them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from service.engine.lane.schedule import Placement
from service.engine.queue.batcher import Batcher
from service.engine.queue.pending_request import Item
from service.errors import KotaeError


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
        """Run the function while the device is held. Raises only what is to end the thread."""
        try:
            with device:
                result = self._function()
        except BaseException as error:
            self.future.set_exception(error)
            del self  # this frame is in the traceback; a cycle through the future would keep its arrays
            if not isinstance(error, Exception):
                raise
        else:
            self.future.set_result(result)

    def refuse(self, reason: str) -> None:
        """Fail the future with `LaneStopped`."""
        self.future.set_exception(LaneStopped(reason))


class LaneThread:
    """The state of one thread of a lane, kept when the thread dies and another takes its place.

    Attributes:
        thread: The thread.
        restarts: How often it died since its last batch.
        jobs: Jobs for this thread alone.
        busy_since: When its batch was claimed; None without one.
        claimed: Queue and items of its batch, until they are settled.
        scheduled: Its batch's model, until the schedule knows that the batch has run.
        device_seconds: How long its last batch kept the device from others.
    """

    def __init__(self) -> None:
        self.thread = threading.Thread()
        self.restarts = 0
        self.jobs: deque[LaneJob] = deque()
        self.busy_since: float | None = None
        self.claimed: tuple[Batcher, Sequence[Item]] | None = None
        self.scheduled: Placement[Batcher] | None = None
        self.device_seconds = 0.0
