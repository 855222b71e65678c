"""The engine as a worker sees it: where requests go, and where their answers come from.

A connection lives as long as the engine's process. When it is lost, what was in flight fails with 503: it
may be what killed the engine, so nothing is tried twice. What arrives from then on waits for the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from service.engine.queue.pending_request import PendingRequest
from service.errors import NotReady, RequestError
from service.multiprocess.error_message import unpack_error
from service.multiprocess.input_memory import InputMemory
from service.multiprocess.output_ring import OutputRingReader
from service.multiprocess.tensor_message import Row, TensorMessage, read
from service.multiprocess.token_socket import Ends, Kind, Token, TokenSocket


class EngineConnection:
    """One connection to the engine. `submit` may be called from any thread, the rest on the event loop.

    Args:
        ends: The connection's descriptors, owned from now on.
        on_state: Called with every state that the engine tells.
        on_lost: Called when the engine is gone, after its pending_requests have failed.
    """

    def __init__(
        self, ends: Ends, on_state: Callable[[Mapping[str, Any]], None], on_lost: Callable[[], None]
    ) -> None:
        self._inputs = InputMemory(ends.inputs)
        self._outputs = OutputRingReader(ends.outputs)
        os.close(ends.inputs)  # the mappings have descriptors of their own
        os.close(ends.outputs)
        self._on_state = on_state
        self._on_lost = on_lost
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[PendingRequest, int]] = {}
        self._lock = threading.Lock()
        self._is_lost = False
        self._link = TokenSocket(ends.socket, self._on_tokens, self.lose)

    def submit(self, model: str, version: str, pending: PendingRequest) -> None:
        """Send a pending's items to a model's queue.

        Raises:
            TooLarge, Overloaded: The shared memory has no room for them, ever or now.
            NotReady: The engine is gone.
        """
        header = {
            "model": model,
            "version": version,
            "deadline": pending.deadline,
            "priority": pending.priority,
            "label": pending.label,
            "costs": [item.cost for item in pending.items],
        }
        message = TensorMessage(header, [item.inputs for item in pending.items])
        offset = self._inputs.put(message)
        number = next(self._numbers)
        with self._lock:
            if self._is_lost:
                raise engine_is_gone()
            self._waiting[number] = pending, offset
        pending.over = partial(self._over, number)
        self._link.send([Token(Kind.SUBMIT, number, offset, message.size)])
        if pending.dropped:  # given up before it could tell
            self._over(number)

    def give_up(self, error: RequestError) -> None:
        """Fail every pending that waits."""
        for pending, _ in list(self._waiting.values()):
            pending.abandon(error, "shutdown")

    def lose(self) -> None:
        """Take the engine for gone: every pending fails."""
        with self._lock:
            self._is_lost = True
            waiting, self._waiting = self._waiting, {}
        self._link.close()
        for pending, _ in waiting.values():
            pending.over = None
            pending.abandon(engine_is_gone(), "failed_sibling")
        self._on_lost()

    def _over(self, number: int, _: object = None) -> None:
        """Tell the engine, unless it was the engine that told us."""
        if self._take(number) is not None:
            self._link.send([Token(Kind.CANCEL, number)])

    def _take(self, number: int) -> PendingRequest | None:
        """Stop waiting for a pending, and give it."""
        pending, offset = self._waiting.pop(number, (None, 0))
        if pending is not None:
            pending.over = None
            self._inputs.give_back(offset)
        return pending

    def _on_tokens(self, tokens: Sequence[Token]) -> None:
        for token in tokens:
            header, rows = read(self._outputs.take(token.place, token.size))
            if token.kind == Kind.STATE:
                self._on_state(header)
            elif pending := self._take(token.pending):
                _settle(pending, header, rows)


class RemoteEngine:
    """The engine, whichever process it is just now.

    Args:
        patience_seconds: How long requests wait at the door for an engine that is being started.

    Attributes:
        generation: Counts the engines and their losses.
        on_state: Called on the event loop with every state that the engine tells.
        on_lost: Called on the event loop when the engine is gone.
    """

    def __init__(self, patience_seconds: float) -> None:
        self.generation = 0
        self._patience_seconds = patience_seconds
        self.on_state: Callable[[Mapping[str, Any]], None] = lambda state: None
        self.on_lost: Callable[[], None] = lambda: None
        self._connection: EngineConnection | None = None
        self._answers = asyncio.Event()
        self._lost_at = time.monotonic()

    def connect(self, ends: Ends) -> None:
        """Take a new connection in the place of the old one."""
        if self._connection is not None:
            self._connection.lose()
        self.generation += 1
        self._connection = EngineConnection(ends, self.on_state, self._lost)

    def submit(self, model: str, version: str, pending: PendingRequest) -> None:
        """Send a pending's items to a model's queue; see `EngineConnection.submit`."""
        connection = self._connection
        if connection is None:
            raise engine_is_gone()
        connection.submit(model, version, pending)

    def give_up(self, error: RequestError) -> None:
        """Fail every pending that waits for the engine."""
        if self._connection is not None:
            self._connection.give_up(error)

    def answers_again(self, generation: int) -> None:
        """Let those in who wait at the door: the engine of that generation has loaded its models."""
        if generation == self.generation:
            self._answers.set()

    async def back(self) -> None:
        """Wait, not for ever, while the engine is being started."""
        if self._answers.is_set():
            return
        patience = self._lost_at + self._patience_seconds - time.monotonic()
        with contextlib.suppress(TimeoutError):  # then the catalog says what is wrong
            await asyncio.wait_for(self._answers.wait(), max(0.0, patience))

    def _lost(self) -> None:
        self._connection = None
        self.generation += 1
        if self._answers.is_set():
            self._answers.clear()
            self._lost_at = time.monotonic()
        self.on_lost()


def engine_is_gone() -> RequestError:
    """Make the error of requests that the engine's end catches."""
    return NotReady("the engine is being restarted", retry_after_seconds=1)


def _settle(pending: PendingRequest, header: Mapping[str, Any], rows: Sequence[Row]) -> None:
    if "error" in header:
        pending.abandon(unpack_error(header["error"]), "failed_sibling")
        return
    pending.queue_seconds = header["queue_seconds"]
    pending.infer_seconds = header["infer_seconds"]
    pending.batch_items = header["batch_items"]
    for item, row in zip(pending.items, rows, strict=True):
        pending.settle(item, row)
