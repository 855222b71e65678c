"""What the event loop has begun and not answered: it goes round, so that a newcomer waits for all of it.

A small model is answered by the lane long before the loop comes back to whoever waits for it; then the loop
itself is what a request queues for, and nobody else can see that queue.
"""

from __future__ import annotations

from service.errors import Overloaded

_SMOOTHING = 0.05
_MARGIN = 1.2


class Backlog:
    """Counts requests in work, and learns what each costs the others. Lives on the event loop.

    Attributes:
        count: Requests in work.
        each_seconds: How long everybody waits for one of them.
    """

    def __init__(self) -> None:
        self.count = 0
        self.each_seconds = 0.0

    def check(self, left_seconds: float) -> None:
        """Refuse a request whose answer the loop would not get to in time; alone it always would.

        Raises:
            Overloaded: There is too much to do.
        """
        late = _MARGIN * self.count * self.each_seconds - left_seconds
        if late > 0:
            raise Overloaded(
                "it would not be answered before its deadline", reason="door", retry_after_seconds=late
            )

    def learn(self, seconds: float, before: int) -> None:
        """Note how long a request waited for the loop alone, beside all that were begun before and after it.

        Args:
            seconds: Its time without decoding threads, queue and lane.
            before: How many were in work when it was begun; those that are now, without it, came after it.
        """
        each = max(0.0, seconds) / (before + self.count + 1)
        self.each_seconds += _SMOOTHING * (each - self.each_seconds)
