"""A worker's copies of the engine's state: queues, catalog and lanes.

The worker loads manifests, labels and tokenizers itself, so that it can decode and encode; it loads no
graphs. Only the engine decides whether a version is ready; while the engine is gone, none is.
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
from service.engine.queue.pending_request import DEFAULT_PRIORITY, PendingRequest
from service.engine.runtime.session import Device
from service.errors import KotaeError, NotReady, Overloaded
from service.multiprocess.engine_connection import RemoteEngine
from service.repository.catalog import Catalog, Model
from service.repository.loader import LoadOptions, Version
from service.repository.manifest import VERSION_FILE, ModelManifest, VersionFacts, read
from service.repository.overrides import Overrides
from service.tasks import TASKS, Task

_log = logging.getLogger(__name__)


class RemoteQueue:
    """A version's queue in the engine; see `service.engine.queue.request_queue.RequestQueue`.

    Args:
        engine: The connection to the engine.
        model: The model's name; `version` likewise.

    Attributes:
        queue_items: Items in the queue, by the engine's last state.
        predicted_wait_seconds: Predicted wait, by the engine's last state.
        predicted_answer_seconds: Predicted time until an answer, by the engine's last state.
        is_refusing: Whether the engine's queue refused a request shortly before its last state.
    """

    def __init__(self, engine: RemoteEngine, model: str, version: str) -> None:
        self.queue_items = 0
        self.predicted_wait_seconds = 0.0
        self.predicted_answer_seconds = 0.0
        self._predicted_at = 0.0
        self.is_refusing = False
        self._engine = engine
        self._model = model
        self._version = version
        self._closing_reason: str | None = None
        self._is_closed_in_engine = False

    @property
    def closed(self) -> bool:
        """Whether new requests are rejected for good."""
        return self._is_closed_in_engine or self._closing_reason is not None

    def apply(self, version: Mapping[str, Any]) -> None:
        """Copy the engine's state of the queue."""
        self.queue_items = version["queue_items"]
        self.predicted_wait_seconds = version["predicted_wait_seconds"]
        self.predicted_answer_seconds = version["predicted_answer_seconds"]
        self.is_refusing = version["is_refusing"]
        self._predicted_at = time.monotonic()
        self._is_closed_in_engine = version["closed"]

    def check(self, priority: int, deadline: float, coming: int) -> None:
        """Reject a request that would be late, by the engine's last prediction, where the engine rejects too.

        The prediction is for a request at the end of the queue. So more urgent ones are not checked.

        Raises:
            Overloaded: It would be late.
        """
        late = self._predicted_at + self.predicted_answer_seconds - deadline
        if late > 0 and priority >= DEFAULT_PRIORITY and self.is_refusing:
            raise Overloaded(
                "it would not be answered before its deadline", reason="deadline", retry_after_seconds=late
            )

    def submit(self, pending: PendingRequest, *, on_loop: bool = False) -> None:
        """Send a request's items to the engine; if the engine rejects them, the request fails later.

        Raises:
            TooLarge, Overloaded: The shared memory is too small for the inputs, always or now.
            NotReady: The engine is gone, or this worker is shutting down.
        """
        if self._closing_reason is not None:
            raise NotReady(self._closing_reason, retry_after_seconds=1)
        self._engine.submit(self._model, self._version, pending)

    def close(self, reason: str) -> None:
        """Reject new requests and fail those in flight, because this worker is shutting down."""
        self._closing_reason = reason
        self._engine.fail_all(NotReady(reason, retry_after_seconds=1))


@dataclass(frozen=True, slots=True)
class _LoadedVersion:
    """The worker's own part of a version."""

    facts: VersionFacts
    task: Task
    queue: RemoteQueue


class RemoteCatalog(Catalog):
    """The engine's models, with tasks that the worker loads itself. Changed by one thread only.

    Args:
        folder: The models folder.
        overrides: Model settings of this host.
        engine: Where requests are sent.

    Raises:
        StartFailed: The models folder does not exist.
    """

    def __init__(self, folder: Path, overrides: Overrides, engine: RemoteEngine) -> None:
        super().__init__(folder, Lanes(Observer()), Observer(), LoadOptions(overrides=overrides))
        self._engine = engine
        self._loaded_versions: dict[tuple[str, int], _LoadedVersion] = {}
        self.discover()

    def apply(self, state: Mapping[str, Any]) -> None:
        """Copy the engine's state; takes long if a version is new, because its task is loaded."""
        for name, remote in state["models"].items():
            model = self.models.get(name)
            if model is not None and model.manifest is not None:
                model.versions = {
                    version["number"]: self._version(model, model.manifest, version)
                    for version in remote["versions"]
                }
                model.reason = remote["reason"]
        self.loaded = state["loaded"]
        if self.loaded:  # the state is complete: versions that are not in it were removed
            present = {(version.model, version.number) for version in self.versions()}
            self._loaded_versions = {
                key: loaded for key, loaded in self._loaded_versions.items() if key in present
            }

    def mark_unavailable(self) -> None:
        """Make all versions not ready, because the engine is gone."""
        self.loaded = False
        for model in self.models.values():
            model.versions = {
                number: replace(version, state="loading", reason="the engine is being restarted")
                for number, version in model.versions.items()
            }

    def _version(self, model: Model, manifest: ModelManifest, remote: Mapping[str, Any]) -> Version:
        number = remote["number"]
        version = Version(
            model.name,
            number,
            model.folder / str(number),
            manifest,
            state=remote["state"],
            reason=remote["reason"],
            failed_check=remote["failed_check"],
            devices=tuple(Device(**device) for device in remote["devices"]),
            provider=remote["provider"],
            load_seconds=remote["load_seconds"],
            golden_check_error=remote["golden_check_error"],
        )
        if version.state != "ready":
            return version
        try:
            loaded = self._load_locally(version)
        except (KotaeError, OSError) as error:  # the folder has changed since the engine read it
            _log.error("version %s of %s failed in this worker: %s", number, model.name, error)
            return replace(version, state="failed", failed_check="load", reason=str(error))
        loaded.queue.apply(remote)
        variant = next((v for v in loaded.facts.variants if v.file == remote["file"]), None)
        return replace(version, facts=loaded.facts, variant=variant, _task=loaded.task, _batcher=loaded.queue)

    def _load_locally(self, version: Version) -> _LoadedVersion:
        key = version.model, version.number
        if key not in self._loaded_versions:
            facts = read(version.folder / VERSION_FILE, VersionFacts)
            task = TASKS[version.manifest.task](version.folder, facts)
            queue = RemoteQueue(self._engine, version.model, str(version.number))
            self._loaded_versions[key] = _LoadedVersion(facts, task, queue)
        return self._loaded_versions[key]


class RemoteLanes:
    """The engine's lanes, by its last state."""

    def __init__(self) -> None:
        self._states: list[LaneState] = []
        self._updated = time.monotonic()

    def apply(self, state: Mapping[str, Any]) -> None:
        """Copy the engine's state."""
        self._updated = time.monotonic()
        self._states = [LaneState(**lane) for lane in state["lanes"]]

    def states(self) -> list[LaneState]:
        """Return the state of every lane; all look silent if the engine sends no state."""
        age = time.monotonic() - self._updated
        return [replace(lane, silent_seconds=lane.silent_seconds + age) for lane in self._states]

    def request_heartbeat(self) -> None:
        """Do nothing: the engine sends the heartbeats."""

    def stop(self) -> None:
        """Do nothing: the engine stops its lanes."""


class EngineMirror:
    """Keeps the copies up to date."""

    def __init__(self, engine: RemoteEngine, catalog: RemoteCatalog, lanes: RemoteLanes) -> None:
        self._engine = engine
        self._catalog = catalog
        self._lanes = lanes
        self._thread = ThreadPoolExecutor(
            1, "mirror"
        )  # loading a task takes long; one thread keeps the order

    def start(self) -> None:
        """Start to follow the engine, on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._engine.on_state = self._on_state
        self._engine.on_disconnect = self._on_disconnect

    def _on_state(self, state: Mapping[str, Any]) -> None:
        self._lanes.apply(state)
        self._thread.submit(self._apply, state, self._engine.generation)

    def _on_disconnect(self) -> None:
        self._catalog.loaded = False
        self._thread.submit(self._catalog.mark_unavailable)

    def _apply(self, state: Mapping[str, Any], generation: int) -> None:
        try:
            self._catalog.apply(state)
        except Exception:
            _log.exception("the engine's state could not be applied")
        if self._catalog.loaded:
            self._loop.call_soon_threadsafe(self._engine.mark_ready, generation)
