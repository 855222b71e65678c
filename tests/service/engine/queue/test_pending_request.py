"""A pending tells once, on the event loop, that it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from service.engine.queue.pending_request import PendingRequest
from service.errors import ClientGone, InferenceFailed
from tests.service.engine.engine_tools import pending_of


def answer(pending: PendingRequest) -> None:
    for item in pending.items:
        pending.settle(item, {"y": item.inputs["x"]})


ENDS: dict[str, tuple[Callable[[PendingRequest], None], str]] = {
    "answered": (answer, "result"),
    "failed": (lambda pending: pending.settle(pending.items[1], InferenceFailed("no")), "error"),
    "given up": (lambda pending: pending.abandon(ClientGone("gone"), "gone"), "error"),
    "closed": (PendingRequest.close, "cancelled"),
}


def outcome(future: asyncio.Future[Any]) -> str:
    if future.cancelled():
        return "cancelled"
    return "error" if future.exception() else "result"


@pytest.mark.parametrize("end", ENDS)
async def test_a_ticket_tells_once_that_it_is_over(end: str) -> None:
    told: list[str] = []
    pending = pending_of(1, 2)
    pending.over = lambda future: told.append(outcome(future))
    make_end, expected = ENDS[end]
    make_end(pending)
    assert told == [expected]
    pending.abandon(ClientGone("again"), "gone")
    pending.close()
    assert told == [expected]
