"""Notice when a client hangs up while its request is worked on."""

from __future__ import annotations

import asyncio

from starlette.types import Receive

from service.engine.queue.pending_request import PendingRequest
from service.errors import ClientGone

_AFTER_SECONDS = 0.005  # most answers are there before a task to watch the connection would pay


class DisconnectWatch:
    """For the length of a block: abandon a request when its client hangs up."""

    __slots__ = ("_pending", "_receive", "_timer", "_watcher")

    def __init__(self, receive: Receive, pending: PendingRequest) -> None:
        self._receive = receive
        self._pending = pending
        self._watcher: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_AFTER_SECONDS, self._begin)

    def __exit__(self, *exception: object) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None  # it refers to this object

    def _begin(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._pending.abandon(ClientGone("the client hung up"), "gone")
