"""A worker's connection and the engine's relay, joined in one process, before a queue that a test gives."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from service.engine.queue import Queue
from service.engine.ticket import Ticket
from service.workers.link import Ends
from service.workers.relay import Relay
from service.workers.remote import Connection

MEMORY_BYTES = 2**16


class Held:
    """A queue that keeps its tickets until the test answers them."""

    queue_items = 0
    predicted_wait_seconds = 0.0
    closed = False

    def __init__(self) -> None:
        self.tickets: list[Ticket] = []
        self.refuse: Callable[[], Exception] | None = None

    def check(self, priority: int, deadline: float, coming: int) -> None:
        pass

    def submit(self, ticket: Ticket, *, on_loop: bool = False) -> None:
        if self.refuse is not None:
            raise self.refuse()
        self.tickets.append(ticket)

    def close(self, reason: str) -> None:
        raise NotImplementedError

    async def next(self) -> Ticket:
        """Wait for a ticket, and take it."""
        await until(lambda: bool(self.tickets))
        return self.tickets.pop(0)

    def answer(self, ticket: Ticket) -> None:
        """Double the ticket's items."""
        for item in ticket.items:
            ticket.settle(item, {"y": item.inputs["x"] * 2})


class Joined:
    """Both ends.

    Attributes:
        states: What the engine told.
        lost: Who noticed that the other one is gone.
        tickets: What was submitted; closed in the end.
    """

    def __init__(self, queue: Queue, memory_bytes: int = MEMORY_BYTES) -> None:
        near, far = socket.socketpair()
        memories = [os.memfd_create(name) for name in ("inputs", "outputs")]
        for memory in memories:
            os.truncate(memory, memory_bytes)
        self.states: list[Mapping[str, Any]] = []
        lost = self.lost = list[str]()
        self.tickets: list[Ticket] = []
        queues = {("m", "1"): queue}
        theirs = Ends(far.detach(), *map(os.dup, memories))
        self.relay = Relay(theirs, lambda *name: queues.get(name), lambda _: lost.append("worker"))
        ours = Ends(near.detach(), *memories)
        self.connection = Connection(ours, self.states.append, lambda: lost.append("engine"))

    def check(self, priority: int, deadline: float, coming: int) -> None:
        pass

    def submit(self, ticket: Ticket, *, on_loop: bool = False) -> None:
        """Send a ticket to the model m."""
        self.tickets.append(ticket)
        self.connection.submit("m", "1", ticket)


@contextmanager
def joined(queue: Queue, memory_bytes: int = MEMORY_BYTES) -> Iterator[Joined]:
    """Join the two for the length of a block."""
    both = Joined(queue, memory_bytes)
    try:
        yield both
    finally:
        both.connection.lose()
        both.relay.close()
        for ticket in both.tickets:
            ticket.close()


def ticket_of(*sizes: int, deadline: float = 1e12, label: str = "", priority: int = 1) -> Ticket:
    """A ticket whose items are 0, 1, … of the sizes, f32."""
    ticket = Ticket(deadline=deadline, label=label, priority=priority)
    ticket.fill([{"x": np.arange(size, dtype=np.float32)} for size in sizes], list(sizes))
    return ticket


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop turn until something holds."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)
