"""The engine's process: models, queues and lanes as in a single process, and a relay for every worker."""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path
from typing import Any

import uvloop

from service.backend import open_backend
from service.engine.queue.request_queue import RequestQueue
from service.lifecycle import Lifecycle
from service.multiprocess.engine_state import describe
from service.multiprocess.supervisor_channel import SupervisorChannel
from service.multiprocess.token_socket import Ends
from service.multiprocess.worker_connection import WorkerConnection
from service.settings import Settings
from service.telemetry.logs import set_log_level
from service.telemetry.shared_metrics import SharedMetrics

_STATE_SECONDS = 0.1  # how old what workers know of models, lanes and queues may be

_log = logging.getLogger(__name__)


def serve_models(settings: Settings, channel: SupervisorChannel) -> None:
    """Run models for the workers until SIGTERM.

    Raises:
        StartFailed: The models folder or the device that was asked for is not there.
    """
    uvloop.run(_serve(settings, channel))


async def _serve(settings: Settings, channel: SupervisorChannel) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    engine = EngineProcess(settings, channel)
    await engine.begin()
    async with asyncio.TaskGroup() as group:  # if one of them fails, the process ends and is started again
        tasks = [group.create_task(engine.lifecycle.watch()), group.create_task(engine.tell_state())]
        await ended.wait()
        for task in tasks:
            task.cancel()
    engine.close()


class EngineProcess:
    """All of the process. Lives on its event loop.

    Attributes:
        lifecycle: Measures the event loop's lag and knocks at the lanes.
    """

    def __init__(self, settings: Settings, channel: SupervisorChannel) -> None:
        setup = channel.setup
        metrics = SharedMetrics(setup.name, Path(setup.metrics_folder), setup.restarts)
        self._channel = channel
        self._metrics = metrics
        self._backend = open_backend(settings, metrics)
        self.lifecycle = Lifecycle(
            settings, self._backend.catalog, self._backend.lanes, metrics.event_loop_lag.observe, self._beat
        )
        self._relays: set[WorkerConnection] = set()

    async def begin(self) -> None:
        """Load the models, and take in the workers."""
        self._channel.watch(self._connect, set_log_level)
        self._channel.beat(ready=False)
        _log.info("starting the engine", extra=dict(self._backend.described))
        await self._backend.begin()

    async def tell_state(self) -> None:
        """Tell every worker again and again, until cancelled."""
        while True:
            state = self._state()
            for relay in self._relays:
                relay.tell(state)
            await asyncio.sleep(_STATE_SECONDS)

    def close(self) -> None:
        """End the lanes after their running batches; nobody waits for anything any more."""
        for relay in list(self._relays):
            relay.close()
        self._backend.catalog.close("the server is shutting down")
        self._backend.lanes.stop()

    def _state(self) -> dict[str, Any]:
        return describe(self._backend.catalog, self._backend.lanes.states())

    def _connect(self, ends: Ends) -> None:
        relay = WorkerConnection(ends, self._find, self._relays.discard)
        self._relays.add(relay)
        relay.tell(self._state())

    def _find(self, model: str, version: str) -> RequestQueue | None:
        found = self._backend.catalog.models.get(model)
        chosen = found.versions.get(int(version)) if found else None
        return chosen.queue if chosen else None

    def _beat(self) -> None:
        self._metrics.heartbeat()
        self._channel.beat(ready=not self.lifecycle.not_ready())
