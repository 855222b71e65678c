"""Refuse early what would be answered too late, before any work is spent on it.

A request waits for three things, in this order. Each is predicted, and each has its own reason in the metric
of refusals:

    the event loop ("event_loop") ─▶ a decoding thread ("decoding") ─▶ the model's queue ("deadline")

The queue decides again when the decoded request enters it, with exact costs; see `engine.queue.admission`.
"""

from __future__ import annotations

import time

from service.engine.queue.pending_request import PendingRequest
from service.errors import Overloaded
from service.inference.decoding_pool import DecodingPool
from service.inference.request import InferenceRequest

_TOO_LATE = "it would not be answered before its deadline"
_SMOOTHING = 0.05
_LOOP_MARGIN = 2.0  # the average is learnt; the loop serves requests in bursts, and some wait twice as long


class EventLoopLoad:
    """Predict how long a request waits for the event loop.

    A small model is answered long before the loop returns to the one who waits for it. Then the loop is what
    requests queue for, and no other queue shows it. Belongs to the event loop.

    Attributes:
        in_progress: Requests that were begun and are not answered.
    """

    def __init__(self) -> None:
        self.in_progress = 0
        self._wait_seconds = 0.0
        self._requests_ahead = 1.0

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
        late = _LOOP_MARGIN * self.in_progress * self.seconds_per_request - left_seconds
        if late > 0:
            raise Overloaded(_TOO_LATE, reason="event_loop", retry_after_seconds=late)

    def learn(self, wait_seconds: float, requests_ahead: int) -> None:
        """Learn from a request that is over.

        Args:
            wait_seconds: Its time without what the lane was predicted to need.
            requests_ahead: Requests that were in progress when it began.
        """
        self._wait_seconds += _SMOOTHING * (max(0.0, wait_seconds) - self._wait_seconds)
        self._requests_ahead += _SMOOTHING * (requests_ahead + 1 - self._requests_ahead)


class LoadShedding:
    """The checks before decoding. Belongs to the event loop.

    Args:
        pool: The threads that decode.
    """

    def __init__(self, pool: DecodingPool) -> None:
        self.loop_load = EventLoopLoad()
        self._pool = pool

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
        left = deadline - time.monotonic()
        self.loop_load.check(left)
        self.check_queue(request, deadline)
        if request.size_bytes > version.task.quick_size:
            self._pool.check(version.model, request.priority, max(1, len(request.items)), left)

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

    def learn(
        self, pending: PendingRequest, seconds: float, lane_seconds: float, requests_ahead: int
    ) -> None:
        """Learn what the event loop made a request wait. Late and expired requests tell most.

        Args:
            pending: The request that is over.
            seconds: Its time since its body was there.
            lane_seconds: What the lane was predicted to need; what it waited beyond that is the loop's doing.
            requests_ahead: Requests that were in progress when it began.
        """
        if pending.infer_seconds:
            lane_seconds = min(lane_seconds, pending.queue_seconds + pending.infer_seconds)
        self.loop_load.learn(seconds - lane_seconds, requests_ahead)
