"""Both ends of a connection between a worker and the engine, in one process, with a queue of the test."""

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
from service.multiprocess.token_socket import ConnectionDescriptors
from service.multiprocess.worker_connection import WorkerConnection

MEMORY_BYTES = 2**16


class HeldQueue:
    """A queue that holds requests until the test answers them."""

    queue_items = 0
    predicted_wait_seconds = 0.0
    predicted_answer_seconds = 0.0
    is_refusing = False
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
        """Wait for a request, and return it."""
        await until(lambda: bool(self.pending_requests))
        return self.pending_requests.pop(0)

    def answer(self, pending: PendingRequest) -> None:
        """Answer with twice the inputs."""
        for item in pending.items:
            pending.settle(item, {"y": item.inputs["x"] * 2})


class ConnectionPair:
    """Both ends.

    Attributes:
        states: States that the engine sent.
        disconnected: Ends that noticed that the other one is gone.
        pending_requests: Submitted requests; closed at the end.
    """

    def __init__(self, queue: RequestQueue, memory_bytes: int = MEMORY_BYTES) -> None:
        worker_end, engine_end = socket.socketpair()
        memories = [os.memfd_create(name) for name in ("inputs", "outputs")]
        for memory in memories:
            os.truncate(memory, memory_bytes)
        self.states: list[Mapping[str, Any]] = []
        disconnected = self.disconnected = list[str]()
        self.pending_requests: list[PendingRequest] = []
        queues = {("m", "1"): queue}
        theirs = ConnectionDescriptors(engine_end.detach(), *map(os.dup, memories))
        self.worker_connection = WorkerConnection(
            theirs, lambda *name: queues.get(name), lambda _: disconnected.append("worker")
        )
        ours = ConnectionDescriptors(worker_end.detach(), *memories)
        self.connection = EngineConnection(ours, self.states.append, lambda: disconnected.append("engine"))

    def check(self, priority: int, deadline: float, coming: int) -> None:
        pass

    def submit(self, pending: PendingRequest, *, on_loop: bool = False) -> None:
        """Send a request to the model m."""
        self.pending_requests.append(pending)
        self.connection.submit("m", "1", pending)


@contextmanager
def connection_pair(queue: RequestQueue, memory_bytes: int = MEMORY_BYTES) -> Iterator[ConnectionPair]:
    """Return a pair that is closed at the end of the `with` block."""
    pair = ConnectionPair(queue, memory_bytes)
    try:
        yield pair
    finally:
        pair.connection.disconnect()
        pair.worker_connection.close()
        for pending in pair.pending_requests:
            pending.close()


def pending_of(*sizes: int, deadline: float = 1e12, label: str = "", priority: int = 1) -> PendingRequest:
    """A request whose items are 0, 1, … of the given sizes, f32."""
    pending = PendingRequest(deadline=deadline, label=label, priority=priority)
    pending.fill([{"x": np.arange(size, dtype=np.float32)} for size in sizes], list(sizes))
    return pending


async def until(condition: Callable[[], bool]) -> None:
    """Run the event loop until a condition holds."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)
