"""Refuse early what would be answered too late, before any work is spent on it.

A request waits for three things, in this order. Each is predicted, and each has its own reason in the metric
of refusals:

    the event loop ("event_loop") ─▶ a decoding thread ("decoding") ─▶ the model's queue ("deadline")

The queue decides again when the decoded request enters it, with exact costs; see `engine.queue.admission`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from service.engine.queue.batch_times import Meter
from service.engine.queue.pending_request import PendingRequest
from service.errors import Overloaded
from service.inference.decoding_pool import DecodingPool
from service.inference.request import InferenceRequest

_TOO_LATE = "it would not be answered before its deadline"
_SMOOTHING = 0.05
_LOOP_MARGIN = 2.0  # the average is learnt; the loop serves requests in bursts, and some wait twice as long

_RECENT_SECONDS = 0.1
_MOST_REFUSING = 0.9  # of the loop's time


class LoopVisit(NamedTuple):
    """What a request found on the event loop when it began.

    Attributes:
        requests_ahead: Requests in progress.
        refusing_seconds: Time spent on refusals until then.
    """

    requests_ahead: int
    refusing_seconds: float


class EventLoopLoad:
    """Predict how long a request waits for the event loop.

    A small model is answered long before the loop returns to the request that waits for it. Then requests
    queue for the loop, and no other queue shows it. The prediction is the number of requests in progress,
    times the time that each took of late, divided by the share of the loop that refusals leave. Belongs to
    the event loop.

    Attributes:
        in_progress: Requests that were begun and are not answered.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.in_progress = 0
        self._clock = clock
        self._wait_seconds = 0.0
        self._requests_ahead = 1.0
        self._refusing_seconds = 0.0
        self._refusing = Meter()

    @property
    def seconds_per_request(self) -> float:
        """How long a request waits for each that was in progress before it."""
        return self._wait_seconds / self._requests_ahead

    def check(self, left_seconds: float) -> None:
        """Refuse a request that the loop would answer too late. With nothing in progress none is refused.

        Args:
            left_seconds: Time until its deadline.

        Raises:
            Overloaded: It would be late.
        """
        if not self.in_progress:
            return
        share = 1 - min(self._refusing.rate(self._clock()), _MOST_REFUSING)
        late = _LOOP_MARGIN * self.in_progress * self.seconds_per_request / share - left_seconds
        if late > 0:
            raise Overloaded(_TOO_LATE, reason="event_loop", retry_after_seconds=late)

    def begin(self) -> LoopVisit:
        """Note that a request is in progress."""
        self.in_progress += 1
        return LoopVisit(self.in_progress - 1, self._refusing_seconds)

    def end(self, visit: LoopVisit, wait_seconds: float | None) -> None:
        """Note that a request is over, and learn from it. Late and expired requests tell most.

        Args:
            visit: What `begin` returned.
            wait_seconds: Its time without what the lane needed; None where it tells nothing of the loop.
        """
        self.in_progress -= 1
        if wait_seconds is not None:
            wait_seconds -= self._refusing_seconds - visit.refusing_seconds
            self._wait_seconds += _SMOOTHING * (max(0.0, wait_seconds) - self._wait_seconds)
            self._requests_ahead += _SMOOTHING * (visit.requests_ahead + 1 - self._requests_ahead)

    def note_refusal(self, seconds: float) -> None:
        """Note time that was spent on a refusal."""
        self._refusing_seconds += seconds
        self._refusing.add(seconds, self._clock())


class LoadShedding:
    """The checks before decoding. Belongs to the event loop.

    Args:
        pool: The threads that decode.
    """

    def __init__(self, pool: DecodingPool) -> None:
        self.loop_load = EventLoopLoad()
        self._pool = pool
        self._refused = -math.inf

    @property
    def is_refusing(self) -> bool:
        """Whether a request was refused in the last tenth of a second."""
        return time.monotonic() < self._refused + _RECENT_SECONDS

    def check(self, request: InferenceRequest, deadline: float) -> None:
        """Refuse a request that would be late.

        Args:
            request: With its target; its items need not be there.
            deadline: In `time.monotonic()` seconds.

        Raises:
            Overloaded: It would be late.
        """
        assert request.target is not None, "the request was prepared"
        version = request.target
        now = time.monotonic()
        try:
            self.loop_load.check(deadline - now)
            self.check_queue(request, deadline)
            if request.size_bytes > version.task.quick_size:
                self._pool.check(version.model, request.priority, max(1, len(request.items)), deadline - now)
        except Overloaded:
            self._refused = now
            raise

    def check_queue(self, request: InferenceRequest, deadline: float) -> None:
        """Refuse a request that its model's queue would refuse after decoding.

        Raises:
            Overloaded: It would be late.
        """
        assert request.target is not None, "the request was prepared"
        left = deadline - time.monotonic()
        if left <= 0:
            raise Overloaded(_TOO_LATE, reason="deadline", retry_after_seconds=-left)
        version = request.target
        version.batcher.check(request.priority, deadline, self._pool.items(version.model))


def loop_wait_seconds(pending: PendingRequest, seconds: float, lane_seconds: float) -> float:
    """Return what of a request's time was spent waiting for the event loop.

    Args:
        pending: The request that is over.
        seconds: Its time since its body was there.
        lane_seconds: What the lane was predicted to need; what it waited beyond that is the loop's doing.
    """
    if pending.infer_seconds:
        lane_seconds = min(lane_seconds, pending.queue_seconds + pending.infer_seconds)
    return seconds - lane_seconds
