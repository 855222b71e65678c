"""The engine process: models, queues and lanes as in a single process, connected with every worker."""

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
from service.multiprocess.token_socket import ConnectionDescriptors
from service.multiprocess.worker_connection import WorkerConnection
from service.settings import Settings
from service.telemetry.logs import set_log_level
from service.telemetry.shared_metrics import SharedMetrics

_STATE_INTERVAL_SECONDS = 0.1  # age limit of the workers' copies of the state

_log = logging.getLogger(__name__)


def serve_models(settings: Settings, channel: SupervisorChannel) -> None:
    """Run models for the workers until SIGTERM.

    Raises:
        StartFailed: The models folder or the requested device does not exist.
    """
    uvloop.run(_serve(settings, channel))


async def _serve(settings: Settings, channel: SupervisorChannel) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    engine = EngineProcess(settings, channel)
    await engine.start()
    async with (
        asyncio.TaskGroup() as group
    ):  # if a task fails, the process ends and the supervisor restarts it
        tasks = [group.create_task(engine.lifecycle.watch()), group.create_task(engine.send_states())]
        await stop.wait()
        for task in tasks:
            task.cancel()
    engine.close()


class EngineProcess:
    """The engine. Lives on the event loop.

    Attributes:
        lifecycle: Measures the event loop's lag and sends heartbeats to the lanes.
    """

    def __init__(self, settings: Settings, channel: SupervisorChannel) -> None:
        setup = channel.setup
        metrics = SharedMetrics(setup.name, Path(setup.metrics_folder), setup.restarts)
        self._channel = channel
        self._metrics = metrics
        self._backend = open_backend(settings, metrics)
        self.lifecycle = Lifecycle(
            settings,
            self._backend.catalog,
            self._backend.lanes,
            metrics.event_loop_lag.observe,
            self._heartbeat,
        )
        self._workers: set[WorkerConnection] = set()

    async def start(self) -> None:
        """Start loading the models and accept connections of workers."""
        self._channel.listen(self._connect, set_log_level)
        self._channel.heartbeat(ready=False)
        _log.info("starting the engine", extra=dict(self._backend.described))
        await self._backend.begin()

    async def send_states(self) -> None:
        """Send the state to every worker at intervals, until cancelled."""
        while True:
            state = self._state()
            for worker in self._workers:
                worker.send_state(state)
            await asyncio.sleep(_STATE_INTERVAL_SECONDS)

    def close(self) -> None:
        """Close all connections, and stop the lanes after their running batches."""
        for worker in list(self._workers):
            worker.close()
        self._backend.catalog.close("the server is shutting down")
        self._backend.lanes.stop()

    def _state(self) -> dict[str, Any]:
        return describe(self._backend.catalog, self._backend.lanes.states())

    def _connect(self, descriptors: ConnectionDescriptors) -> None:
        worker = WorkerConnection(descriptors, self._find, self._workers.discard)
        self._workers.add(worker)
        worker.send_state(self._state())

    def _find(self, model: str, version: str) -> RequestQueue | None:
        found = self._backend.catalog.models.get(model)
        chosen = found.versions.get(int(version)) if found else None
        return chosen.queue if chosen else None

    def _heartbeat(self) -> None:
        self._metrics.heartbeat()
        self._channel.heartbeat(ready=not self.lifecycle.not_ready())
