"""The engine's end of one worker's connection: its requests enter the models' queues, its answers go back.

    token ─▶ views over the worker's memory ─▶ ticket ─▶ queue … lane ─▶ parcel in the ring ─▶ token

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

from service.engine.queue import Queue
from service.engine.ticket import Outputs, Ticket
from service.errors import ClientGone, InferenceFailed, NotReady, RequestError, TooLarge
from service.workers.arena import Borrowed
from service.workers.failures import pack_error, unpack_error
from service.workers.link import Ends, Kind, Link, Token
from service.workers.parcel import Parcel, read
from service.workers.ring import RingWriter

_RETRY_SECONDS = 0.002  # until a full ring is looked at again

_log = logging.getLogger(__name__)


class Relay:
    """One worker, as the engine sees it.

    Args:
        ends: The connection's descriptors, owned by the relay from now on.
        find: Gives the queue of a model's version, by name and number; None where it does not answer.
        on_lost: Called when the worker is gone.
    """

    def __init__(
        self, ends: Ends, find: Callable[[str, str], Queue | None], on_lost: Callable[[Relay], None]
    ) -> None:
        self._inputs = Borrowed(ends.inputs)
        self._outputs = RingWriter(ends.outputs)
        os.close(ends.inputs)  # the mappings have descriptors of their own
        os.close(ends.outputs)
        self._find = find
        self._on_lost = on_lost
        self._tickets: dict[int, Ticket] = {}
        self._answers: deque[tuple[Token, Parcel]] = deque()
        self._is_flush_due = False
        self._loop = asyncio.get_running_loop()
        self._link = Link(ends.socket, self._on_tokens, self._lost)

    def tell(self, state: Mapping[str, object]) -> None:
        """Send the engine's state."""
        self._post(Token(Kind.STATE), Parcel(state))

    def close(self) -> None:
        """Hang up, and drop what the worker still waits for."""
        self._link.close()
        self._answers.clear()
        tickets, self._tickets = self._tickets, {}
        for ticket in tickets.values():
            ticket.abandon(ClientGone("the worker that asked is gone"), "gone")
            _let_go(ticket)

    def _lost(self) -> None:
        self.close()
        self._on_lost(self)

    def _on_tokens(self, tokens: Sequence[Token]) -> None:
        for token in tokens:
            if token.kind == Kind.SUBMIT:
                self._submit(token)
            elif token.kind == Kind.CANCEL:
                self._cancel(token.ticket)

    def _submit(self, token: Token) -> None:
        header, rows = read(self._inputs.block(token.place, token.size))
        ticket = Ticket(deadline=header["deadline"], label=header["label"], priority=header["priority"])
        ticket.fill(rows, header["costs"])
        ticket.over = partial(self._over, token.ticket)
        self._tickets[token.ticket] = ticket
        queue = self._find(header["model"], header["version"])
        try:
            if queue is None:
                raise NotReady(f"model {header['model']} is not ready", retry_after_seconds=1)
            queue.submit(ticket, on_loop=True)
        except RequestError as error:
            # A copy, whose traceback does not hold the inputs for as long as the error lives.
            ticket.abandon(unpack_error(pack_error(error)), "failed_sibling")
        except Exception:
            _log.exception("a request did not get into its queue", extra={"request_ids": [ticket.label]})
            ticket.abandon(InferenceFailed("the inference failed"), "failed_sibling")

    def _cancel(self, number: int) -> None:
        ticket = self._tickets.pop(number, None)
        if ticket is not None:
            reason = "expired" if ticket.expired(time.monotonic()) else "gone"
            ticket.abandon(ClientGone("nobody waits any more"), reason)
            _let_go(ticket)

    def _over(self, number: int, future: asyncio.Future[list[Outputs]]) -> None:
        error = None if future.cancelled() else future.exception()
        ticket = self._tickets.pop(number, None)
        if ticket is None:  # cancelled: nobody wants to hear of it
            return
        if isinstance(error, RequestError):
            parcel = Parcel({"error": pack_error(error)})
        else:
            parcel = Parcel(_times(ticket), future.result())
        _let_go(ticket)
        if parcel.size > self._outputs.capacity:
            limit = f"the limit is {self._outputs.capacity}"
            parcel = Parcel({"error": pack_error(TooLarge(f"the outputs take {parcel.size} bytes; {limit}"))})
        self._post(Token(Kind.DONE, number), parcel)

    def _post(self, token: Token, parcel: Parcel) -> None:
        self._answers.append((token, parcel))
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write what fits into the ring, and send all its tokens at once."""
        self._is_flush_due = False
        tokens = []
        while self._answers:
            token, parcel = self._answers[0]
            end = self._outputs.put(parcel)
            if end is None:
                self._is_flush_due = True
                self._loop.call_later(_RETRY_SECONDS, self._flush)
                break
            self._answers.popleft()
            tokens.append(token._replace(place=end, size=parcel.size))
        if tokens:
            self._link.send(tokens)


def _times(ticket: Ticket) -> dict[str, object]:
    return {
        "queue_seconds": ticket.queue_seconds,
        "infer_seconds": ticket.infer_seconds,
        "batch_items": ticket.batch_items,
    }


def _let_go(ticket: Ticket) -> None:
    """Break the circle of ticket and items, so that the inputs are free once the engine drops the items."""
    ticket.close()
    ticket.items = ()
