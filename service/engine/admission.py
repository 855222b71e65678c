"""Who gets into a model's queue, and when a refused client should come back.

Today the rule is a bounded queue; the wait that it predicts is the number of batches ahead times the
recent time of a batch. Admission by deadline belongs here too: `check` already sees all it needs.
"""

from __future__ import annotations

import math

from service.errors import Overloaded

_SMOOTHING = 0.2  # weight of the newest batch time in the running mean


class Admission:
    """The gate of one model. Used under the batcher's lock.

    Args:
        max_queue_items: Most items that may wait.
        max_items: Most items in a batch.
    """

    def __init__(self, *, max_queue_items: int, max_items: int) -> None:
        self._max_queue_items = max_queue_items
        self._max_items = max_items
        self._batch_seconds = 0.0

    def record(self, seconds: float) -> None:
        """Learn from a batch that just ran."""
        known = self._batch_seconds
        self._batch_seconds = seconds if known == 0 else known + _SMOOTHING * (seconds - known)

    def predicted_wait_seconds(self, waiting_items: int) -> float:
        """Predict how long a newcomer behind `waiting_items` waits for its answer."""
        return math.ceil((waiting_items + 1) / self._max_items) * self._batch_seconds

    def check(self, waiting_items: int, new_items: int) -> None:
        """Let a request in, or refuse it at once.

        Raises:
            Overloaded: The queue has no room for all of the request's items.
        """
        if waiting_items + new_items <= self._max_queue_items:
            return
        raise Overloaded(
            f"the queue is full: {waiting_items} of {self._max_queue_items} items wait",
            reason="queue_full",
            retry_after_seconds=self.predicted_wait_seconds(waiting_items),
        )
