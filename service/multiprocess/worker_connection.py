"""The engine's connection to one worker: requests enter the models' queues, outputs go back.

    token ─▶ views of the input memory ─▶ pending request ─▶ queue, lane ─▶ output ring ─▶ token

Everything runs on the engine's event loop. All messages that one iteration of the loop finishes are sent with
one system call.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from service.engine.queue.pending_request import Outputs, PendingRequest
from service.engine.queue.request_queue import RequestQueue
from service.errors import ClientGone, InferenceFailed, NotReady, RequestError, TooLarge
from service.multiprocess.error_message import pack_error, unpack_error
from service.multiprocess.input_memory import InputMemoryReader
from service.multiprocess.output_ring import OutputRingWriter
from service.multiprocess.tensor_message import TensorMessage, read
from service.multiprocess.token_socket import ConnectionDescriptors, Kind, Token, TokenSocket

_RETRY_SECONDS = 0.002  # before writing to a full output ring again

_log = logging.getLogger(__name__)


class WorkerConnection:
    """Connection to one worker. Lives on the event loop.

    Args:
        descriptors: The connection's file descriptors; this object closes them.
        find: Returns the queue of a model's version, by name and number; None if it is not ready.
        on_disconnect: Called when the worker is gone.
    """

    def __init__(
        self,
        descriptors: ConnectionDescriptors,
        find: Callable[[str, str], RequestQueue | None],
        on_disconnect: Callable[[WorkerConnection], None],
    ) -> None:
        self._inputs = InputMemoryReader(descriptors.inputs)
        self._outputs = OutputRingWriter(descriptors.outputs)
        os.close(descriptors.inputs)  # the memory stays mapped
        os.close(descriptors.outputs)
        self._find = find
        self._on_disconnect = on_disconnect
        self._requests: dict[int, PendingRequest] = {}
        self._unsent: deque[tuple[Token, TensorMessage]] = deque()
        self._is_flush_scheduled = False
        self._loop = asyncio.get_running_loop()
        self._tokens = TokenSocket(descriptors.socket, self._on_tokens, self._disconnected)

    def send_state(self, state: Mapping[str, object]) -> None:
        """Send the engine's state."""
        self._send(Token(Kind.STATE), TensorMessage(state))

    def close(self) -> None:
        """Close the connection, and drop the worker's requests."""
        self._tokens.close()
        self._unsent.clear()
        requests, self._requests = self._requests, {}
        for pending in requests.values():
            pending.abandon(ClientGone("the worker is gone"), "gone")
            _release(pending)

    def _disconnected(self) -> None:
        self.close()
        self._on_disconnect(self)

    def _on_tokens(self, tokens: Sequence[Token]) -> None:
        for token in tokens:
            if token.kind == Kind.SUBMIT:
                self._submit(token)
            elif token.kind == Kind.CANCEL:
                self._cancel(token.request)

    def _submit(self, token: Token) -> None:
        header, rows = read(self._inputs.block(token.position, token.size))
        pending = PendingRequest(
            deadline=header["deadline"], label=header["label"], priority=header["priority"]
        )
        pending.fill(rows, header["costs"])
        pending.over = partial(self._on_finished, token.request)
        self._requests[token.request] = pending
        queue = self._find(header["model"], header["version"])
        try:
            if queue is None:
                raise NotReady(f"model {header['model']} is not ready", retry_after_seconds=1)
            queue.submit(pending, on_loop=True)
        except RequestError as error:
            # A copy: the traceback of the original would keep the inputs in memory.
            pending.abandon(unpack_error(pack_error(error)), "failed_sibling")
        except Exception:
            _log.exception("a request could not be queued", extra={"request_ids": [pending.label]})
            pending.abandon(InferenceFailed("the inference failed"), "failed_sibling")

    def _cancel(self, number: int) -> None:
        pending = self._requests.pop(number, None)
        if pending is not None:
            reason = "expired" if pending.expired(time.monotonic()) else "gone"
            pending.abandon(ClientGone("the request was cancelled"), reason)
            _release(pending)

    def _on_finished(self, number: int, future: asyncio.Future[list[Outputs]]) -> None:
        error = None if future.cancelled() else future.exception()
        pending = self._requests.pop(number, None)
        if pending is None:  # the worker cancelled it
            return
        if isinstance(error, RequestError):
            message = TensorMessage({"error": pack_error(error)})
        else:
            message = TensorMessage(_times(pending), future.result())
        _release(pending)
        if message.size > self._outputs.capacity:
            limit = f"the limit is {self._outputs.capacity}"
            message = TensorMessage(
                {"error": pack_error(TooLarge(f"the outputs take {message.size} bytes; {limit}"))}
            )
        self._send(Token(Kind.DONE, number), message)

    def _send(self, token: Token, message: TensorMessage) -> None:
        self._unsent.append((token, message))
        if not self._is_flush_scheduled:
            self._is_flush_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write the messages that fit into the output ring, and send their tokens together."""
        self._is_flush_scheduled = False
        tokens = []
        while self._unsent:
            token, message = self._unsent[0]
            end = self._outputs.put(message)
            if end is None:
                self._is_flush_scheduled = True
                self._loop.call_later(_RETRY_SECONDS, self._flush)
                break
            self._unsent.popleft()
            tokens.append(token._replace(position=end, size=message.size))
        if tokens:
            self._tokens.send(tokens)


def _times(pending: PendingRequest) -> dict[str, object]:
    return {
        "queue_seconds": pending.queue_seconds,
        "infer_seconds": pending.infer_seconds,
        "batch_items": pending.batch_items,
    }


def _release(pending: PendingRequest) -> None:
    """Break the reference cycle of request and items, so that the inputs are freed with the items."""
    pending.close()
    pending.items = ()
