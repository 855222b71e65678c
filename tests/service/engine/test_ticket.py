"""A ticket tells once, on the event loop, that it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from service.engine.ticket import Ticket
from service.errors import ClientGone, InferenceFailed
from tests.service.engine.engine_tools import ticket_of


def answer(ticket: Ticket) -> None:
    for item in ticket.items:
        ticket.settle(item, {"y": item.inputs["x"]})


ENDS: dict[str, tuple[Callable[[Ticket], None], str]] = {
    "answered": (answer, "result"),
    "failed": (lambda ticket: ticket.settle(ticket.items[1], InferenceFailed("no")), "error"),
    "given up": (lambda ticket: ticket.abandon(ClientGone("gone"), "gone"), "error"),
    "closed": (Ticket.close, "cancelled"),
}


def outcome(future: asyncio.Future[Any]) -> str:
    if future.cancelled():
        return "cancelled"
    return "error" if future.exception() else "result"


@pytest.mark.parametrize("end", ENDS)
async def test_a_ticket_tells_once_that_it_is_over(end: str) -> None:
    told: list[str] = []
    ticket = ticket_of(1, 2)
    ticket.over = lambda future: told.append(outcome(future))
    make_end, expected = ENDS[end]
    make_end(ticket)
    assert told == [expected]
    ticket.abandon(ClientGone("again"), "gone")
    ticket.close()
    assert told == [expected]
