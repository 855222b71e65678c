"""A worker's copies of what the engine has: queues, catalog, lanes.

The worker reads manifests, labels and tokenizers itself, so that it can decode and encode; it loads no graph.
Whether a version answers is only for the engine to say: once it is gone, none does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from service.engine.lane.lanes import Lanes, LaneState
from service.engine.observer import Observer
from service.engine.queue.pending_request import PendingRequest
from service.engine.runtime.session import Device
from service.errors import KotaeError, NotReady
from service.multiprocess.engine_connection import RemoteEngine
from service.repository.catalog import Catalog, Model
from service.repository.loader import LoadOptions, Version
from service.repository.manifest import VERSION_FILE, ModelManifest, VersionFacts, read
from service.repository.overrides import Overrides
from service.tasks import TASKS, Task

_log = logging.getLogger(__name__)


class RemoteQueue:
    """Stands for a version's queue in the engine; see `service.engine.queue.request_queue.RequestQueue`.

    Attributes:
        queue_items: Items that wait, as the engine last told.
        predicted_wait_seconds: As the engine last told.
        predicted_answer_seconds: As the engine last told.
    """

    def __init__(self, engine: RemoteEngine, model: str, version: str) -> None:
        self.queue_items = 0
        self.predicted_wait_seconds = 0.0
        self.predicted_answer_seconds = 0.0
        self._engine = engine
        self._model = model
        self._version = version
        self._closed_here: str | None = None
        self._closed_there = False

    @property
    def closed(self) -> bool:
        """Whether newcomers are refused for good."""
        return self._closed_there or self._closed_here is not None

    def apply(self, told: Mapping[str, Any]) -> None:
        """Become as the engine says it is."""
        self.queue_items = told["queue_items"]
        self.predicted_wait_seconds = told["predicted_wait_seconds"]
        self.predicted_answer_seconds = told["predicted_answer_seconds"]
        self._closed_there = told["closed"]

    def check(self, priority: int, deadline: float, coming: int) -> None:
        """Refuse nobody: what the engine knows is not known here. See `service.inference.refusals`."""

    def submit(self, pending: PendingRequest, *, on_loop: bool = False) -> None:
        """Send a request's items to the engine; what the engine refuses fails the pending later.

        Raises:
            TooLarge, Overloaded: The shared memory has no room for them, ever or now.
            NotReady: The engine is gone, or this worker is ending.
        """
        if self._closed_here is not None:
            raise NotReady(self._closed_here, retry_after_seconds=1)
        self._engine.submit(self._model, self._version, pending)

    def close(self, reason: str) -> None:
        """Refuse newcomers from now on, and fail all that wait for the engine: this worker is ending."""
        self._closed_here = reason
        self._engine.give_up(NotReady(reason, retry_after_seconds=1))


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the worker itself has of a version."""

    facts: VersionFacts
    task: Task
    queue: RemoteQueue


class RemoteCatalog(Catalog):
    """The models as the engine has them, with tasks of the worker's own. Changed by one thread only.

    Raises:
        StartFailed: The models folder does not exist.
    """

    def __init__(self, folder: Path, overrides: Overrides, engine: RemoteEngine) -> None:
        super().__init__(folder, Lanes(Observer()), Observer(), LoadOptions(overrides=overrides))
        self._engine = engine
        self._parts: dict[tuple[str, int], _Parts] = {}
        self.discover()

    def apply(self, state: Mapping[str, Any]) -> None:
        """Become as the engine says it is; slow where a version is new, for its task is loaded."""
        for name, told in state["models"].items():
            model = self.models.get(name)
            if model is not None and model.manifest is not None:
                model.versions = {
                    v["number"]: self._version(model, model.manifest, v) for v in told["versions"]
                }
                model.reason = told["reason"]
        self.loaded = state["loaded"]
        if self.loaded:  # all are told: what is not among them is gone for good
            told_of = {(version.model, version.number) for version in self.versions()}
            self._parts = {key: parts for key, parts in self._parts.items() if key in told_of}

    def forget(self) -> None:
        """Take it that nothing answers: the engine is gone."""
        self.loaded = False
        for model in self.models.values():
            model.versions = {
                number: replace(version, state="loading", reason="the engine is being restarted")
                for number, version in model.versions.items()
            }

    def _version(self, model: Model, manifest: ModelManifest, told: Mapping[str, Any]) -> Version:
        number = told["number"]
        version = Version(
            model.name,
            number,
            model.folder / str(number),
            manifest,
            state=told["state"],
            reason=told["reason"],
            failed_check=told["failed_check"],
            devices=tuple(Device(**device) for device in told["devices"]),
            provider=told["provider"],
            load_seconds=told["load_seconds"],
            golden_check_error=told["golden_check_error"],
        )
        if version.state != "ready":
            return version
        try:
            parts = self._load_parts(version)
        except (KotaeError, OSError) as error:  # the folder changed after the engine read it
            _log.error("version %s of %s failed in this worker: %s", number, model.name, error)
            return replace(version, state="failed", failed_check="load", reason=str(error))
        parts.queue.apply(told)
        variant = next((v for v in parts.facts.variants if v.file == told["file"]), None)
        return replace(version, facts=parts.facts, variant=variant, _task=parts.task, _batcher=parts.queue)

    def _load_parts(self, version: Version) -> _Parts:
        key = version.model, version.number
        if key not in self._parts:
            facts = read(version.folder / VERSION_FILE, VersionFacts)
            task = TASKS[version.manifest.task](version.folder, facts)
            queue = RemoteQueue(self._engine, version.model, str(version.number))
            self._parts[key] = _Parts(facts, task, queue)
        return self._parts[key]


class RemoteLanes:
    """The engine's lanes, as it last told."""

    def __init__(self) -> None:
        self._states: list[LaneState] = []
        self._told = time.monotonic()

    def apply(self, state: Mapping[str, Any]) -> None:
        """Become as the engine says it is."""
        self._told = time.monotonic()
        self._states = [LaneState(**lane) for lane in state["lanes"]]

    def states(self) -> list[LaneState]:
        """Tell how every lane is; an engine that tells nothing looks silent."""
        age = time.monotonic() - self._told
        return [replace(lane, silent_seconds=lane.silent_seconds + age) for lane in self._states]

    def knock(self) -> None:
        """Nothing: the engine knocks."""

    def stop(self) -> None:
        """Nothing: the engine stops them."""


class EngineMirror:
    """Keeps the copies as the engine is."""

    def __init__(self, engine: RemoteEngine, catalog: RemoteCatalog, lanes: RemoteLanes) -> None:
        self._engine = engine
        self._catalog = catalog
        self._lanes = lanes
        self._thread = ThreadPoolExecutor(1, "mirror")  # loading a task is slow; states stay in order

    def begin(self) -> None:
        """Follow the engine from now on, on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._engine.on_state = self._on_state
        self._engine.on_lost = self._on_lost

    def _on_state(self, state: Mapping[str, Any]) -> None:
        self._lanes.apply(state)
        self._thread.submit(self._become, state, self._engine.generation)

    def _on_lost(self) -> None:
        self._catalog.loaded = False
        self._thread.submit(self._catalog.forget)

    def _become(self, state: Mapping[str, Any], generation: int) -> None:
        try:
            self._catalog.apply(state)
        except Exception:
            _log.exception("the engine's state could not be taken over")
        if self._catalog.loaded:
            self._loop.call_soon_threadsafe(self._engine.answers_again, generation)
