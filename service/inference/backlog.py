"""What the event loop has begun and not answered: it goes round, so that a newcomer waits for all of it.

A small model is answered by the lane long before the loop comes back to whoever waits for it; then the loop
itself is what a request queues for, and nobody else can see that queue.
"""

from __future__ import annotations

from service.engine.queue.pending_request import PendingRequest
from service.errors import Overloaded

_SMOOTHING = 0.05
_MARGIN = 2.0  # the average is learnt; the loop goes round in bursts, and some wait for twice as long


class Backlog:
    """Counts requests in work, and learns how long one waits for the loop. Lives on the event loop.

    Attributes:
        count: Requests in work.
    """

    def __init__(self) -> None:
        self.count = 0
        self._seconds = 0.0
        self._ahead = 1.0

    @property
    def each_seconds(self) -> float:
        """How long a request waits for each that was in work before it."""
        return self._seconds / self._ahead

    def check(self, left_seconds: float, coming: int = 0) -> None:
        """Refuse a request whose answer the loop would not get to in time; alone it always would.

        Args:
            left_seconds: Until its deadline.
            coming: How many more were let in than have begun.

        Raises:
            Overloaded: There is too much to do.
        """
        late = _MARGIN * (self.count + coming) * self.each_seconds - left_seconds
        if late > 0:
            raise Overloaded(
                "it would not be answered before its deadline", reason="door", retry_after_seconds=late
            )

    def learn(self, seconds: float, before: int) -> None:
        """Note how long a request waited for the loop alone.

        Those who came after it made it wait as well, and so did refusals: as many will come after the next.

        Args:
            seconds: Its time without what the lane needs.
            before: How many were in work when it was begun.
        """
        self._seconds += _SMOOTHING * (max(0.0, seconds) - self._seconds)
        self._ahead += _SMOOTHING * (before + 1 - self._ahead)

    def learn_from(self, pending: PendingRequest, seconds: float, lane_seconds: float, before: int) -> None:
        """Note what the loop made a request wait.

        Args:
            pending: The request's.
            seconds: Its time since its body was there.
            lane_seconds: What the lane was predicted to need; what it waited for more is the loop's doing.
            before: How many were in work when it was begun.
        """
        if pending.infer_seconds:
            lane_seconds = min(lane_seconds, pending.queue_seconds + pending.infer_seconds)
        self.learn(seconds - lane_seconds, before)
