"""Items that need not run any more: nobody waits for them, or they cannot be in time."""

from __future__ import annotations

from service.engine.queue.pending_request import Item
from service.errors import ClientGone, DeadlineExceeded, InferenceFailed, RequestError


def is_wanted(item: Item, now: float, least_seconds: float = 0.0) -> bool:
    """Tell whether somebody still waits for an item that needs at least so long."""
    return any(
        waiter.pending.dropped is None and waiter.pending.deadline > now + least_seconds
        for waiter in item.waiters()
    )


def drop_error(reason: str) -> RequestError:
    """Give what the waiter of a dropped item is told."""
    if reason == "expired":
        return DeadlineExceeded("the deadline passed before the item could run")
    if reason == "gone":
        return ClientGone("the client hung up")
    return InferenceFailed("another item of the request failed")
