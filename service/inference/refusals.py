"""Refusals before any work, with HTTP workers: what the engine's queues refused, they would refuse again.

A queue in the same process is asked itself (`RequestQueue.check`). One in another process says no only after
decoding. When it has refused a request of the least possible cost, it is known how much time that would have
needed. Whoever comes next with the same priority and a later deadline stands behind it, so that it needs no
less, but for what the lane has done since. Twice that is taken off, because admission counts with a margin of
at most 2: nobody is refused here who would be let in there. And ten times a second, at least, one is let
through to ask.
"""

from __future__ import annotations

from service.engine.queue.pending_request import PendingRequest
from service.errors import Overloaded
from service.repository.loader import Version

_MOST_MARGIN = 2.0
_LONGEST_SECONDS = 0.1  # a wrong prediction must be found out soon
_TEXT = "it would not be answered before its deadline"


class Refusals:
    """Remembers, by model, version and priority. Lives on the event loop."""

    def __init__(self) -> None:
        self._refused: dict[tuple[str, int, int], _Refusal] = {}

    def check(self, version: Version, priority: int, deadline: float, now: float) -> None:
        """Refuse what has no time left, or less than it is known to need.

        Args:
            version: Who shall answer.
            priority: 1 is highest.
            deadline: In clock seconds, as is `now`.
            now: The clock.

        Raises:
            Overloaded: It is refused.
        """
        left = deadline - now
        if left <= 0:
            raise Overloaded(_TEXT, reason="door", retry_after_seconds=-left)
        if not self._refused:
            return
        last = self._refused.get((version.model, version.number, priority))
        if last is None or deadline < last.deadline:
            return
        since = now - last.noted
        if since < _LONGEST_SECONDS and left + _MOST_MARGIN * since < last.needed_seconds:
            raise Overloaded(_TEXT, reason="door", retry_after_seconds=last.needed_seconds - since - left)

    def note(self, version: Version, pending: PendingRequest, error: Overloaded, now: float) -> None:
        """Remember that admission refused a request, if any other would cost at least as much."""
        if error.reason != "deadline" or [item.cost for item in pending.items] != [1]:
            return
        if version.manifest.answer_cache_bytes:  # an answer that is kept costs nothing
            return
        needed_seconds = pending.deadline - now + (error.retry_after_seconds or 0.0)
        key = version.model, version.number, pending.priority
        self._refused[key] = _Refusal(pending.deadline, needed_seconds, now)


class _Refusal:
    """What a request would have needed, its deadline, and when that was known."""

    __slots__ = ("deadline", "needed_seconds", "noted")

    def __init__(self, deadline: float, needed_seconds: float, noted: float) -> None:
        self.deadline = deadline
        self.needed_seconds = needed_seconds
        self.noted = noted
