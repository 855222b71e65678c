"""The engine's end of one worker's connection: its requests enter the models' queues, its answers go back.

    token ─▶ views over the worker's memory ─▶ pending ─▶ queue … lane ─▶ message in the ring ─▶ token

Lives on the engine's event loop, which a batch of results wakes once; all that one turn of the loop
finishes goes out in one send.
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
from service.multiprocess.input_memory import Borrowed
from service.multiprocess.output_ring import OutputRingWriter
from service.multiprocess.tensor_message import TensorMessage, read
from service.multiprocess.token_socket import Ends, Kind, Token, TokenSocket

_RETRY_SECONDS = 0.002  # until a full ring is looked at again

_log = logging.getLogger(__name__)


class WorkerConnection:
    """One worker, as the engine sees it.

    Args:
        ends: The connection's descriptors, owned by the relay from now on.
        find: Gives the queue of a model's version, by name and number; None where it does not answer.
        on_lost: Called when the worker is gone.
    """

    def __init__(
        self,
        ends: Ends,
        find: Callable[[str, str], RequestQueue | None],
        on_lost: Callable[[WorkerConnection], None],
    ) -> None:
        self._inputs = Borrowed(ends.inputs)
        self._outputs = OutputRingWriter(ends.outputs)
        os.close(ends.inputs)  # the mappings have descriptors of their own
        os.close(ends.outputs)
        self._find = find
        self._on_lost = on_lost
        self._tickets: dict[int, PendingRequest] = {}
        self._answers: deque[tuple[Token, TensorMessage]] = deque()
        self._is_flush_due = False
        self._loop = asyncio.get_running_loop()
        self._link = TokenSocket(ends.socket, self._on_tokens, self._lost)

    def tell(self, state: Mapping[str, object]) -> None:
        """Send the engine's state."""
        self._post(Token(Kind.STATE), TensorMessage(state))

    def close(self) -> None:
        """Hang up, and drop what the worker still waits for."""
        self._link.close()
        self._answers.clear()
        pending_requests, self._tickets = self._tickets, {}
        for pending in pending_requests.values():
            pending.abandon(ClientGone("the worker that asked is gone"), "gone")
            _let_go(pending)

    def _lost(self) -> None:
        self.close()
        self._on_lost(self)

    def _on_tokens(self, tokens: Sequence[Token]) -> None:
        for token in tokens:
            if token.kind == Kind.SUBMIT:
                self._submit(token)
            elif token.kind == Kind.CANCEL:
                self._cancel(token.pending)

    def _submit(self, token: Token) -> None:
        header, rows = read(self._inputs.block(token.place, token.size))
        pending = PendingRequest(
            deadline=header["deadline"], label=header["label"], priority=header["priority"]
        )
        pending.fill(rows, header["costs"])
        pending.over = partial(self._over, token.pending)
        self._tickets[token.pending] = pending
        queue = self._find(header["model"], header["version"])
        try:
            if queue is None:
                raise NotReady(f"model {header['model']} is not ready", retry_after_seconds=1)
            queue.submit(pending, on_loop=True)
        except RequestError as error:
            # A copy, whose traceback does not hold the inputs for as long as the error lives.
            pending.abandon(unpack_error(pack_error(error)), "failed_sibling")
        except Exception:
            _log.exception("a request did not get into its queue", extra={"request_ids": [pending.label]})
            pending.abandon(InferenceFailed("the inference failed"), "failed_sibling")

    def _cancel(self, number: int) -> None:
        pending = self._tickets.pop(number, None)
        if pending is not None:
            reason = "expired" if pending.expired(time.monotonic()) else "gone"
            pending.abandon(ClientGone("nobody waits any more"), reason)
            _let_go(pending)

    def _over(self, number: int, future: asyncio.Future[list[Outputs]]) -> None:
        error = None if future.cancelled() else future.exception()
        pending = self._tickets.pop(number, None)
        if pending is None:  # cancelled: nobody wants to hear of it
            return
        if isinstance(error, RequestError):
            message = TensorMessage({"error": pack_error(error)})
        else:
            message = TensorMessage(_times(pending), future.result())
        _let_go(pending)
        if message.size > self._outputs.capacity:
            limit = f"the limit is {self._outputs.capacity}"
            message = TensorMessage(
                {"error": pack_error(TooLarge(f"the outputs take {message.size} bytes; {limit}"))}
            )
        self._post(Token(Kind.DONE, number), message)

    def _post(self, token: Token, message: TensorMessage) -> None:
        self._answers.append((token, message))
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write what fits into the ring, and send all its tokens at once."""
        self._is_flush_due = False
        tokens = []
        while self._answers:
            token, message = self._answers[0]
            end = self._outputs.put(message)
            if end is None:
                self._is_flush_due = True
                self._loop.call_later(_RETRY_SECONDS, self._flush)
                break
            self._answers.popleft()
            tokens.append(token._replace(place=end, size=message.size))
        if tokens:
            self._link.send(tokens)


def _times(pending: PendingRequest) -> dict[str, object]:
    return {
        "queue_seconds": pending.queue_seconds,
        "infer_seconds": pending.infer_seconds,
        "batch_items": pending.batch_items,
    }


def _let_go(pending: PendingRequest) -> None:
    """Break the circle of pending and items, so that the inputs are free once the engine drops the items."""
    pending.close()
    pending.items = ()
