"""The engine without HTTP: the catalog's own queue and lane, single items submitted from threads."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import uvloop
from numpy.typing import NDArray

from service.engine.lane.lanes import Lanes
from service.engine.observer import Observer
from service.engine.queue.pending_request import Inputs, PendingRequest
from service.engine.queue.request_queue import RequestQueue
from service.errors import RequestError
from service.repository.catalog import Catalog
from service.repository.loader import LoadOptions
from service.repository.overrides import read_overrides

_DEADLINE_SECONDS = 60.0
_THREADS = 4  # submit requests


@contextmanager
def engine(models: Path, model: str, device: str, overrides: Path) -> Iterator[RequestQueue]:
    """Load a model as the service does, for the duration of a block.

    Args:
        models: The model repository.
        model: The model.
        device: `cpu` or `cuda`.
        overrides: The overrides file.

    Yields:
        Its queue.

    Raises:
        SystemExit: The model did not load.
    """
    lanes, observer = Lanes(Observer()), Observer()
    options = LoadOptions(device=device, overrides=read_overrides(overrides))
    catalog = Catalog(models, lanes, observer, options)
    try:
        catalog.discover()
        catalog.load()
        found = catalog.models[model]
        if found.serving is None:
            raise SystemExit(f"{model} did not load: {found.problem}")
        yield found.serving.batcher
    finally:
        lanes.stop()


def engine_rate(
    queue: RequestQueue, rows: NDArray[Any], name: str, *, in_flight: int, seconds: float
) -> float:
    """Keep a number of single items in flight; return answers per second.

    As in the service, requests belong to one event loop, and threads submit them and write their rows.

    Args:
        queue: The model's queue.
        rows: Items, batch axis first; more than are in flight, so that no two of those are equal.
        name: The name of the graph's input.
        in_flight: Items in flight.
        seconds: Duration.

    Raises:
        RequestError: An item failed.
    """
    assert in_flight < len(rows), "equal items that wait would share one run"
    return uvloop.run(_Feed(queue, [{name: row} for row in rows], seconds).run(in_flight))


class _Feed:
    """Sends a request for each answer, until the time is over."""

    def __init__(self, queue: RequestQueue, items: Sequence[Inputs], seconds: float) -> None:
        self._queue = queue
        self._items = itertools.cycle(items)
        self._seconds = seconds
        self._end = 0.0
        self._fresh: SimpleQueue[PendingRequest | None] = SimpleQueue()
        self._answers = 0
        self._in_flight = 0
        self._failure: BaseException | None = None

    async def run(self, in_flight: int) -> float:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        threads = [threading.Thread(target=self._submit) for _ in range(_THREADS)]
        for thread in threads:
            thread.start()
        began = time.monotonic()
        self._end = began + self._seconds
        for _ in range(in_flight):
            self._in_flight += 1
            self._ask()
        await self._over.wait()
        spent = time.monotonic() - began
        for _ in threads:
            self._fresh.put(None)
        for thread in threads:
            thread.join()
        if self._failure:
            raise self._failure
        return self._answers / spent

    def _ask(self) -> None:
        pending = PendingRequest(deadline=time.monotonic() + _DEADLINE_SECONDS)
        pending.fill([next(self._items)], [1])
        pending.over = partial(self._answered, pending)
        self._fresh.put(pending)

    def _submit(self) -> None:
        """Submit requests on a thread until it gets None."""
        while pending := self._fresh.get():
            try:
                self._queue.submit(pending)
            except RequestError as error:
                self._loop.call_soon_threadsafe(pending.abandon, error, "refused")

    def _answered(self, pending: PendingRequest, answer: asyncio.Future[Any]) -> None:
        pending.close()
        self._failure = self._failure or answer.exception()
        self._answers += 1
        if self._failure is None and time.monotonic() < self._end:
            self._ask()
            return
        self._in_flight -= 1
        if not self._in_flight:
            self._over.set()
