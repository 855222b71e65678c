"""A worker's connection to the engine.

A connection lives as long as the engine process. When it is lost, all requests in flight fail with 503 and
are not retried, because one of them may have killed the engine. New requests wait until the engine has
restarted.
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
from service.multiprocess.input_memory import InputMemoryWriter
from service.multiprocess.output_ring import OutputRingReader
from service.multiprocess.tensor_message import Arrays, TensorMessage, read
from service.multiprocess.token_socket import ConnectionDescriptors, Kind, Token, TokenSocket


class EngineConnection:
    """One connection to the engine. `submit` may be called from any thread, the rest on the event loop.

    Args:
        descriptors: The connection's file descriptors; this object closes them.
        on_state: Called with each state that the engine sends.
        on_disconnect: Called when the engine is gone, after all requests in flight have failed.
    """

    def __init__(
        self,
        descriptors: ConnectionDescriptors,
        on_state: Callable[[Mapping[str, Any]], None],
        on_disconnect: Callable[[], None],
    ) -> None:
        self._inputs = InputMemoryWriter(descriptors.inputs)
        self._outputs = OutputRingReader(descriptors.outputs)
        os.close(descriptors.inputs)  # the memory stays mapped
        os.close(descriptors.outputs)
        self._on_state = on_state
        self._on_disconnect = on_disconnect
        self._numbers = itertools.count(1)
        self._requests: dict[int, tuple[PendingRequest, int]] = {}  # with the offset of the inputs
        self._lock = threading.Lock()
        self._is_closed = False
        self._tokens = TokenSocket(descriptors.socket, self._on_tokens, self.disconnect)

    def submit(self, model: str, version: str, pending: PendingRequest) -> None:
        """Send a request's items to the queue of a model's version.

        Raises:
            TooLarge, Overloaded: The shared memory is too small for the inputs, always or now.
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
            if self._is_closed:
                raise engine_is_gone()
            self._requests[number] = pending, offset
        pending.over = partial(self._on_finished, number)
        self._tokens.send([Token(Kind.SUBMIT, number, offset, message.size)])
        if pending.dropped:  # it was abandoned before `over` was set
            self._on_finished(number)

    def fail_all(self, error: RequestError) -> None:
        """Fail all requests in flight."""
        for pending, _ in list(self._requests.values()):
            pending.abandon(error, "shutdown")

    def disconnect(self) -> None:
        """Close the connection and fail all requests in flight."""
        with self._lock:
            self._is_closed = True
            requests, self._requests = self._requests, {}
        self._tokens.close()
        for pending, _ in requests.values():
            pending.over = None
            pending.abandon(engine_is_gone(), "failed_sibling")
        self._on_disconnect()

    def _on_finished(self, number: int, _: object = None) -> None:
        """Cancel a request in the engine, unless the engine finished it."""
        if self._remove(number) is not None:
            self._tokens.send([Token(Kind.CANCEL, number)])

    def _remove(self, number: int) -> PendingRequest | None:
        """Remove a request, free its inputs and return it; None if it was removed before."""
        pending, offset = self._requests.pop(number, (None, 0))
        if pending is not None:
            pending.over = None
            self._inputs.free(offset)
        return pending

    def _on_tokens(self, tokens: Sequence[Token]) -> None:
        for token in tokens:
            header, rows = read(self._outputs.take(token.position, token.size))
            if token.kind == Kind.STATE:
                self._on_state(header)
            elif pending := self._remove(token.request):
                _settle(pending, header, rows)


class RemoteEngine:
    """The engine as a worker sees it, across restarts of the engine process.

    Args:
        restart_timeout_seconds: How long requests wait while the engine restarts.

    Attributes:
        generation: Increases when an engine connects or disconnects.
        on_state: Called on the event loop with each state that the engine sends.
        on_disconnect: Called on the event loop when the engine is gone.
    """

    def __init__(self, restart_timeout_seconds: float) -> None:
        self.generation = 0
        self._restart_timeout_seconds = restart_timeout_seconds
        self.on_state: Callable[[Mapping[str, Any]], None] = lambda state: None
        self.on_disconnect: Callable[[], None] = lambda: None
        self._connection: EngineConnection | None = None
        self._ready = asyncio.Event()
        self._disconnected_at = time.monotonic()

    def connect(self, descriptors: ConnectionDescriptors) -> None:
        """Replace the connection with a new one."""
        if self._connection is not None:
            self._connection.disconnect()
        self.generation += 1
        self._connection = EngineConnection(descriptors, self.on_state, self._disconnected)

    def submit(self, model: str, version: str, pending: PendingRequest) -> None:
        """Send a request's items to the queue of a model's version; see `EngineConnection.submit`."""
        connection = self._connection
        if connection is None:
            raise engine_is_gone()
        connection.submit(model, version, pending)

    def fail_all(self, error: RequestError) -> None:
        """Fail all requests in flight."""
        if self._connection is not None:
            self._connection.fail_all(error)

    def mark_ready(self, generation: int) -> None:
        """Let waiting requests continue, if the engine of that generation is still connected."""
        if generation == self.generation:
            self._ready.set()

    async def wait_until_ready(self) -> None:
        """Wait while the engine restarts, within the time limit."""
        if self._ready.is_set():
            return
        timeout = self._disconnected_at + self._restart_timeout_seconds - time.monotonic()
        with contextlib.suppress(TimeoutError):  # then the catalog answers that no model is ready
            await asyncio.wait_for(self._ready.wait(), max(0.0, timeout))

    def _disconnected(self) -> None:
        self._connection = None
        self.generation += 1
        if self._ready.is_set():
            self._ready.clear()
            self._disconnected_at = time.monotonic()
        self.on_disconnect()


def engine_is_gone() -> RequestError:
    """Return the error of requests that were in flight when the engine ended."""
    return NotReady("the engine is being restarted", retry_after_seconds=1)


def _settle(pending: PendingRequest, header: Mapping[str, Any], rows: Sequence[Arrays]) -> None:
    """Finish a request with the engine's outputs or error."""
    if "error" in header:
        pending.abandon(unpack_error(header["error"]), "failed_sibling")
        return
    pending.queue_seconds = header["queue_seconds"]
    pending.infer_seconds = header["infer_seconds"]
    pending.batch_items = header["batch_items"]
    for item, row in zip(pending.items, rows, strict=True):
        pending.settle(item, row)
