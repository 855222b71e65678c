"""The loader brings one version up: from its folder to ready, or failed with a reason.

The catalog decides which versions are wanted and which version answers a request. The loader knows only one
version. It reads `version.yaml`, checks the hashes, creates the sessions, runs the golden check and the
warm-up, and only then attaches the version to its lanes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from service.engine.cuda.device_memory import pinned
from service.engine.cuda.providers import GpuProvider
from service.engine.lane.lanes import Lanes
from service.engine.observer import Observer
from service.engine.queue.batch import BatchLimits, RowSpec
from service.engine.queue.batcher import Batcher
from service.engine.queue.request_queue import RequestQueue
from service.engine.runtime.cpus import CpuPlan
from service.engine.runtime.device import Device
from service.engine.runtime.session import Session
from service.repository import golden
from service.repository.manifest import VERSION_FILE, ModelManifest, Variant, VersionFacts, read
from service.repository.overrides import Overrides
from service.repository.sessions import SessionFactory
from service.repository.warm_up import warm_up
from service.tasks import TASKS, Limits, Task

State = Literal["loading", "ready", "failed"]
Check = Literal["manifest", "files", "load", "golden"]


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How versions are loaded.

    Attributes:
        device: What `auto` in a manifest means.
        gpu_provider: What runs graphs on GPUs.
        tensorrt_cache: Folder in which TensorRT keeps its engines and timings.
        cpu: How CPU sessions share the CPUs.
        overrides: What this host changes about models.
        limits: Limits on decoding, for the golden files.
    """

    device: str = "auto"
    gpu_provider: GpuProvider = "cuda"
    tensorrt_cache: Path = Path("~/.cache/kotae/tensorrt")
    cpu: CpuPlan = field(default_factory=CpuPlan)
    overrides: Overrides = field(default_factory=Overrides)
    limits: Limits = field(default_factory=Limits)


@dataclass(eq=False)
class Version:
    """One version of a model and its state: loading, ready or failed.

    Attributes:
        reason: Why the version is not ready; empty if it is.
        failed_check: The step that failed; None unless the state is failed.
        provider: What runs the graph: `cpu`, `cuda` or `tensorrt`; empty before the version is loaded.
        golden_check_error: Largest difference from PyTorch, over all outputs.
    """

    model: str
    number: int
    folder: Path
    manifest: ModelManifest
    state: State = "loading"
    reason: str = "loading"
    failed_check: Check | None = None
    facts: VersionFacts | None = None
    variant: Variant | None = None
    devices: tuple[Device, ...] = ()
    provider: str = ""
    load_seconds: float = 0.0
    golden_check_error: float | None = None
    _task: Task | None = field(default=None, repr=False)
    _batcher: RequestQueue | None = field(default=None, repr=False)

    @property
    def task(self) -> Task:
        """The task of a loaded version."""
        assert self._task is not None, "only a loaded version has a task"
        return self._task

    @property
    def batcher(self) -> RequestQueue:
        """The queue of a ready version."""
        assert self._batcher is not None, "only a ready version has a queue"
        return self._batcher

    @property
    def queue(self) -> RequestQueue | None:
        """The queue; None before the version is ready."""
        return self._batcher


class Loader:
    """Brings one version up.

    Args:
        version: Its state is filled in step by step.
        lanes: Where the version runs.
        observer: Passed to the version's queue.
        options: How versions are loaded.

    Attributes:
        check: The step that is running.
    """

    def __init__(self, version: Version, lanes: Lanes, observer: Observer, options: LoadOptions) -> None:
        self._version = version
        self._lanes = lanes
        self._observer = observer
        self._options = options
        self.check: Check = "manifest"

    def load(self) -> None:
        """Load the version, check it, warm it up and attach it to its lanes.

        Raises:
            ModelRejected: A check failed.
            StartFailed: A device that the manifest names does not exist.
        """
        version = self._version
        facts = version.facts = read(version.folder / VERSION_FILE, VersionFacts)
        self.check = "files"
        golden.check_files(version.folder, facts)
        self.check = "load"
        task = version._task = TASKS[version.manifest.task](version.folder, facts)
        factory = self._session_factory(facts)
        version.devices = factory.devices(self._options.device)
        for device in version.devices:
            version.variant, version.provider = factory.variant(device), factory.provider(device)
        sessions = [factory.create(device, task) for device in version.devices]
        batcher = self._create_batcher(sessions, factory)
        self.check = "golden"
        for session in sessions:
            self._check_and_warm_up(session, task, batcher, factory)
        for session in sessions:
            self._lanes.on(str(session.device)).attach(batcher, session.run, session.stage)
        version._batcher = batcher

    def _session_factory(self, facts: VersionFacts) -> SessionFactory:
        version, options = self._version, self._options
        return SessionFactory(
            version.folder,
            version.manifest,
            facts,
            options.overrides.for_model(version.model),
            gpu_provider=options.gpu_provider,
            cpu=options.cpu,
            tensorrt_cache=options.tensorrt_cache,
        )

    def _create_batcher(self, sessions: Sequence[Session], factory: SessionFactory) -> Batcher:
        version = self._version
        on_gpu = [session.device.kind != "cpu" for session in sessions]
        return Batcher(
            version.model,
            str(version.number),
            _batch_limits(version.manifest),
            rows=_row_specs(sessions[0]),
            observer=self._observer,
            buckets=factory.buckets() if all(on_gpu) else None,
            allocate=pinned if any(on_gpu) else np.zeros,
        )

    def _check_and_warm_up(
        self, session: Session, task: Task, batcher: Batcher, factory: SessionFactory
    ) -> None:
        version, variant = self._version, factory.variant(session.device)
        lane = self._lanes.on(str(session.device))

        def run(inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
            return lane.call(lambda: session.run(inputs)).result()

        differences = golden.check_arrays(version.folder, variant, task, run)
        version.golden_check_error = max(*differences.values(), version.golden_check_error or 0.0)
        golden.check_cases(version.folder, task, run, self._options.limits, variant.answer_tolerance)
        inputs, _ = golden.read_golden_arrays(version.folder)
        buckets = factory.buckets() if session.device.kind != "cpu" else None
        warm_up(session, lane, batcher, inputs, buckets)
        lane.call(lambda: session.shrink(inputs)).result()


def _batch_limits(manifest: ModelManifest) -> BatchLimits:
    batching = manifest.batching
    return BatchLimits(
        max_items=batching.max_items,
        max_cost=batching.max_cost,
        max_delay_seconds=batching.max_delay_seconds,
        max_queue_items=batching.max_queue_items,
        deadline_seconds=manifest.deadline_seconds,
        answer_cache_bytes=manifest.answer_cache_bytes,
    )


def _row_specs(session: Session) -> dict[str, RowSpec] | None:
    """Return the row of each input; None if a shape is not fixed."""
    rows = {}
    for spec in session.inputs:
        shape = tuple(axis for axis in spec.shape[1:] if axis is not None)
        if len(shape) + 1 != len(spec.shape):
            return None
        rows[spec.name] = RowSpec(shape, spec.dtype)
    return rows
