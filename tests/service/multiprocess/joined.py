"""A worker's connection and the engine's relay, joined in one process, before a queue that a test gives."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from service.engine.queue.pending_request import PendingRequest
from service.engine.queue.request_queue import RequestQueue
from service.multiprocess.engine_connection import EngineConnection
from service.multiprocess.token_socket import Ends
from service.multiprocess.worker_connection import WorkerConnection

MEMORY_BYTES = 2**16


class Held:
    """A queue that keeps its pending_requests until the test answers them."""

    queue_items = 0
    predicted_wait_seconds = 0.0
    predicted_answer_seconds = 0.0
    closed = False

    def __init__(self) -> None:
        self.pending_requests: list[PendingRequest] = []
        self.refuse: Callable[[], Exception] | None = None

    def check(self, priority: int, deadline: float, coming: int) -> None:
        pass

    def submit(self, pending: PendingRequest, *, on_loop: bool = False) -> None:
        if self.refuse is not None:
            raise self.refuse()
        self.pending_requests.append(pending)

    def close(self, reason: str) -> None:
        raise NotImplementedError

    async def next(self) -> PendingRequest:
        """Wait for a pending, and take it."""
        await until(lambda: bool(self.pending_requests))
        return self.pending_requests.pop(0)

    def answer(self, pending: PendingRequest) -> None:
        """Double the pending's items."""
        for item in pending.items:
            pending.settle(item, {"y": item.inputs["x"] * 2})


class Joined:
    """Both ends.

    Attributes:
        states: What the engine told.
        lost: Who noticed that the other one is gone.
        pending_requests: What was submitted; closed in the end.
    """

    def __init__(self, queue: RequestQueue, memory_bytes: int = MEMORY_BYTES) -> None:
        near, far = socket.socketpair()
        memories = [os.memfd_create(name) for name in ("inputs", "outputs")]
        for memory in memories:
            os.truncate(memory, memory_bytes)
        self.states: list[Mapping[str, Any]] = []
        lost = self.lost = list[str]()
        self.pending_requests: list[PendingRequest] = []
        queues = {("m", "1"): queue}
        theirs = Ends(far.detach(), *map(os.dup, memories))
        self.relay = WorkerConnection(theirs, lambda *name: queues.get(name), lambda _: lost.append("worker"))
        ours = Ends(near.detach(), *memories)
        self.connection = EngineConnection(ours, self.states.append, lambda: lost.append("engine"))

    def check(self, priority: int, deadline: float, coming: int) -> None:
        pass

    def submit(self, pending: PendingRequest, *, on_loop: bool = False) -> None:
        """Send a pending to the model m."""
        self.pending_requests.append(pending)
        self.connection.submit("m", "1", pending)


@contextmanager
def joined(queue: RequestQueue, memory_bytes: int = MEMORY_BYTES) -> Iterator[Joined]:
    """Join the two for the length of a block."""
    both = Joined(queue, memory_bytes)
    try:
        yield both
    finally:
        both.connection.lose()
        both.relay.close()
        for pending in both.pending_requests:
            pending.close()


def pending_of(*sizes: int, deadline: float = 1e12, label: str = "", priority: int = 1) -> PendingRequest:
    """A pending whose items are 0, 1, … of the sizes, f32."""
    pending = PendingRequest(deadline=deadline, label=label, priority=priority)
    pending.fill([{"x": np.arange(size, dtype=np.float32)} for size in sizes], list(sizes))
    return pending


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop turn until something holds."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)
