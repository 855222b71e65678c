"""A request's place in the engine: its items, its deadline and the future that it waits on.

A pending's results belong to the event loop: lanes hand them over with `deliver`, once a batch.
Lanes themselves only read `deadline` and `dropped`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

from numpy.typing import NDArray

from service.errors import ClientGone, DeadlineExceeded, InferenceFailed, RequestError

Inputs = Mapping[str, NDArray[Any]]
Outputs = Mapping[str, NDArray[Any]]

DEFAULT_PRIORITY = 2  # of requests that name none: one level above them is left, and the rest below
LOWEST_PRIORITY = 9


class Item:
    """One image, utterance or text: the graph's inputs without the batch axis, and what they cost.

    Attributes:
        followers: Equal items of other requests, or of the same one, that get this one's answer too.
        content: What the item is known by while it waits and runs; None before it is submitted.
        claimed: Whether a lane has it.
        predicted_seconds: How long it was expected to take when it was let in, if that was not much less than
            it has; else 0.
    """

    __slots__ = (
        "claimed",
        "content",
        "cost",
        "followers",
        "index",
        "inputs",
        "pending",
        "predicted_seconds",
        "submitted",
    )

    def __init__(self, pending: PendingRequest, index: int, inputs: Inputs, cost: int) -> None:
        self.pending = pending
        self.index = index
        self.inputs = inputs
        self.cost = cost
        self.submitted = 0.0
        self.followers: list[Item] | None = None
        self.content: Hashable | None = None
        self.claimed = False
        self.predicted_seconds = 0.0

    def waiters(self) -> Sequence[Item]:
        """Return the item and its followers."""
        return (self,) if self.followers is None else (self, *self.followers)


_Result = TypeVar("_Result")
Settlement = tuple[Item, Outputs | RequestError]


class PendingRequest:
    """The items of one request, all answered or failed together. Made on the event loop.

    Args:
        deadline: When the answer becomes worthless, in `time.monotonic()` seconds.
        label: The request's id, for the log.
        priority: 1 is highest, 9 lowest.

    Attributes:
        dropped: Why the items need not run any more, or None. Lanes look at it before a run.
        queue_seconds: Longest wait of an item in the queue.
        infer_seconds: Longest run that an item was part of.
        batch_items: Largest batch that an item was part of.
        loop: Its event loop.
        over: Called once, on the event loop, with the future that was answered, failed or given up.
    """

    def __init__(self, *, deadline: float, label: str = "", priority: int = DEFAULT_PRIORITY) -> None:
        self.deadline = deadline
        self.label = label
        self.priority = priority
        self.items: tuple[Item, ...] = ()
        self.dropped: str | None = None
        self.queue_seconds = 0.0
        self.infer_seconds = 0.0
        self.batch_items = 0
        self.over: Callable[[asyncio.Future[list[Outputs]]], None] | None = None
        self.loop = asyncio.get_running_loop()
        self._future: asyncio.Future[list[Outputs]] | None = self.loop.create_future()
        self._outputs: dict[int, Outputs] = {}
        self._timer = self.loop.call_later(max(0.0, deadline - time.monotonic()), self._expire)

    def fill(self, inputs: Sequence[Inputs], costs: Sequence[int]) -> None:
        """Set the items, in the request's order."""
        self.items = tuple(
            Item(self, i, arrays, cost) for i, (arrays, cost) in enumerate(zip(inputs, costs, strict=True))
        )

    def expired(self, now: float) -> bool:
        """Return whether the deadline has passed."""
        return now >= self.deadline

    async def outputs(self) -> list[Outputs]:
        """Wait for every item.

        Returns:
            Each item's outputs without the batch axis, in the request's order.

        Raises:
            DeadlineExceeded: The deadline passed first.
            RequestError: An item failed, or the pending was abandoned.
        """
        assert self._future is not None, "it is not closed"
        return await self._future

    async def unless_failed(self, admission: asyncio.Future[_Result]) -> _Result:
        """Wait for the request's admission, but no longer than the pending lives.

        Raises:
            DeadlineExceeded, ClientGone: The pending failed first; the admission ends by itself.
        """
        assert self._future is not None, "it is not closed"
        try:
            await asyncio.wait((admission, self._future), return_when=asyncio.FIRST_COMPLETED)
            if not admission.done() and self.dropped is not None:
                admission.add_done_callback(lambda late: late.cancelled() or late.exception())
                self._future.result()
            return await admission
        finally:
            del admission  # its exception refers to this frame

    def close(self) -> None:
        """Nobody waits any more: items that have not run are dropped. On the event loop."""
        self._timer.cancel()
        future, self._future = self._future, None  # its exception refers to frames that refer to this request
        if future is None:
            return
        if not future.done():
            self.dropped = self.dropped or "gone"
            future.cancel()
            self._tell(future)
        elif not future.cancelled():
            future.exception()  # seen: the request may have failed of something else before

    def abandon(self, error: RequestError, reason: str) -> None:
        """Fail the request with `error`; items that did not run are dropped. On the event loop."""
        self.dropped = self.dropped or reason
        if self._future is not None and not self._future.done():
            self._future.set_exception(error)
            self._tell(self._future)

    def settle(self, item: Item, result: Outputs | RequestError) -> None:
        """Take one item's result; the last one completes the pending. On the event loop."""
        if isinstance(result, RequestError):
            self.abandon(result, "failed_sibling")
            return
        self._outputs[item.index] = result
        future = self._future
        if future is not None and len(self._outputs) == len(self.items) and not future.done():
            future.set_result([self._outputs[i] for i in range(len(self.items))])
            self._tell(future)

    def post(self, settlements: Sequence[Settlement]) -> None:
        """Settle on this pending's event loop, from any thread; one wake-up for all of them."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self.loop.call_soon_threadsafe(_settle_all, settlements)

    def _tell(self, future: asyncio.Future[list[Outputs]]) -> None:
        if self.over is not None:
            self.over(future)

    def _expire(self) -> None:
        self.abandon(DeadlineExceeded("the deadline passed before the answer was there"), "expired")


def deliver(settlements: Sequence[Settlement]) -> None:
    """Hand results to their waiters with one wake-up of the event loop. From any thread."""
    if settlements:
        settlements[0][0].pending.post(settlements)


def is_wanted(item: Item, now: float, least_seconds: float = 0.0) -> bool:
    """Return whether a client still waits for an item and the deadline leaves it this many seconds."""
    return any(
        waiter.pending.dropped is None and waiter.pending.deadline > now + least_seconds
        for waiter in item.waiters()
    )


def drop_error(reason: str) -> RequestError:
    """Return the error for the waiters of an item that left the queue without running."""
    if reason == "expired":
        return DeadlineExceeded("the deadline passed before the item could run")
    if reason == "gone":
        return ClientGone("the client hung up")
    return InferenceFailed("another item of the request failed")


def _settle_all(settlements: Sequence[Settlement]) -> None:
    for item, result in settlements:
        item.pending.settle(item, result)
