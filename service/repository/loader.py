"""One version on its way from its folder to answering: read, hash, load, check, warm, attach.

The catalog decides which versions are wanted; this module brings one up or says why it cannot be.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from service.engine.cuda.device_memory import pinned
from service.engine.cuda.driver import tensorrt_version
from service.engine.cuda.gpu_session import GpuSession
from service.engine.cuda.providers import GpuOptions, GpuProvider, ShapeRange, TensorRT
from service.engine.devices import choose_devices
from service.engine.lane.lanes import Lanes
from service.engine.observer import Observer
from service.engine.queue.batch import BatchLimits, RowSpec
from service.engine.queue.batcher import Batcher
from service.engine.queue.request_queue import RequestQueue
from service.engine.runtime.cpus import CpuPlan
from service.engine.runtime.device import Device
from service.engine.runtime.session import Session, runtime_version
from service.engine.runtime.shape_buckets import Buckets
from service.errors import KotaeError, ModelRejected
from service.repository import golden
from service.repository.manifest import (
    VERSION_FILE,
    AudioInput,
    ImageInput,
    ModelManifest,
    TextInput,
    Variant,
    VersionFacts,
    read,
)
from service.repository.overrides import Overrides
from service.repository.warming import warm_up
from service.tasks import TASKS, Limits, Task

_SMALL_SECONDS = 0.002  # a graph that answers sooner loses more by waking threads than it gains
_TIMED_RUNS = 3

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
        limits: BatchBounds on decoding, for the golden files.
    """

    device: str = "auto"
    gpu_provider: GpuProvider = "cuda"
    tensorrt_cache: Path = Path("~/.cache/kotae/tensorrt")
    cpu: CpuPlan = field(default_factory=CpuPlan)
    overrides: Overrides = field(default_factory=Overrides)
    limits: Limits = field(default_factory=Limits)


@dataclass(eq=False)
class Version:
    """One version of a model, on its way to answering or past it.

    Attributes:
        reason: Why it does not answer; empty while ready.
        failed_check: Which step failed; None unless the state is failed.
        golden_check_error: Largest difference from PyTorch, over all outputs.
        provider: What runs the graph on its devices: `cpu`, `cuda` or `tensorrt`; empty before it is loaded.
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
        """The task, bound to this version's labels."""
        assert self._task is not None, "only a loaded version has a task"
        return self._task

    @property
    def batcher(self) -> RequestQueue:
        """The queue."""
        assert self._batcher is not None, "only a ready version has a queue"
        return self._batcher

    @property
    def queue(self) -> RequestQueue | None:
        """The queue, if the version ever became ready."""
        return self._batcher


class Loader:
    """Brings one version from its folder to answering, or raises with the reason why not.

    Attributes:
        check: The step that is under way.
    """

    def __init__(self, version: Version, lanes: Lanes, observer: Observer, options: LoadOptions) -> None:
        self._version = version
        self._lanes = lanes
        self._observer = observer
        self._options = options
        self._overrides = options.overrides.of(version.model)
        self.check: Check = "manifest"

    def load(self) -> None:
        """Read, check hashes, create sessions, check golden answers, warm, attach to the lanes.

        Raises:
            ModelRejected: A check failed.
            StartFailed: A device that the manifest names is not there.
        """
        version = self._version
        facts = version.facts = read(version.folder / VERSION_FILE, VersionFacts)
        self.check = "files"
        golden.check_files(version.folder, facts)
        self.check = "load"
        task = version._task = TASKS[version.manifest.task](version.folder, facts)
        version.devices = self._devices()
        sessions = [self._session(device) for device in version.devices]
        batcher = self._batcher(sessions)
        self.check = "golden"
        for session in sessions:
            self._check(session, task, batcher)
        for session in sessions:
            self._lanes.on(str(session.device)).attach(batcher, session.run, session.stage)
        version._batcher = batcher

    def _batcher(self, sessions: Sequence[Session]) -> Batcher:
        version = self._version
        on_gpus = {session.device.kind != "cpu" for session in sessions}
        return Batcher(
            version.model,
            str(version.number),
            _batch_limits(version.manifest),
            rows=_row_specs(sessions[0]),
            observer=self._observer,
            buckets=self._buckets() if on_gpus == {True} else None,
            allocate=pinned if True in on_gpus else np.zeros,
        )

    def _buckets(self) -> Buckets:
        facts = self._version.facts
        assert facts is not None, "the facts are read first"
        longest = None if isinstance(facts.input, ImageInput) else _axis_range(facts.input)[1]
        return Buckets(self._version.manifest.batching.max_items, longest)

    def _devices(self) -> tuple[Device, ...]:
        """Resolve the manifest's devices; the CPU counts as often as there are lanes of it for the model."""
        wanted = (self._options.device if d == "auto" else d for d in self._version.manifest.devices)
        found = (device for name in wanted for device in choose_devices(name, self._gpu_provider))
        lanes = self._overrides.lanes or self._options.cpu.lanes
        return tuple(
            Device(device.kind, device.index + lane)
            for device in dict.fromkeys(found)
            for lane in range(lanes if device.kind == "cpu" else 1)
        )

    @property
    def _gpu_provider(self) -> GpuProvider:
        return self._overrides.provider or self._options.gpu_provider

    def _session(self, device: Device) -> Session:
        version = self._version
        assert version.facts is not None, "the facts are read first"
        variant = version.variant = choose_variant(version.facts, device, self._overrides.precision)
        path = version.folder / variant.file
        version.provider = "cpu" if device.kind == "cpu" else self._gpu_provider
        if device.kind == "cpu":
            return self._cpu_session(path, device)
        session = GpuSession(path, device, gpu=self._gpu_options(variant))
        _check_signature(session, version.task)
        session.bind(self._buckets())
        return session

    def _cpu_session(self, path: Path, device: Device) -> Session:
        plan = self._options.cpu
        threads = self._overrides.threads or (plan.threads if plan.asked else None)
        session = Session(path, device, threads=threads or 1, spinning=plan.spinning)
        _check_signature(session, self._version.task)
        if threads or plan.threads == 1 or self._seconds(session) < _SMALL_SECONDS:
            return session
        return Session(path, device, threads=plan.threads, spinning=plan.spinning)

    def _gpu_options(self, variant: Variant) -> GpuOptions:
        memory_limit_bytes = self._version.manifest.memory_limit_bytes
        if self._gpu_provider == "cuda":
            assert self._version.facts is not None, "the facts are read first"
            fixed = isinstance(self._version.facts.input, ImageInput)
            return GpuOptions(memory_limit_bytes, cuda_graph=fixed and self._overrides.cuda_graphs)
        version, cache = self._version, self._options.tensorrt_cache.expanduser()
        assert version.facts is not None, "the facts are read first"
        content = version.facts.files[variant.file].partition(":")[2]
        cache /= f"tensorrt-{tensorrt_version()}-onnxruntime-{runtime_version()}"
        engines = cache / f"{version.model}-{version.number}-{content[:12]}"
        try:
            engines.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ModelRejected(f"TensorRT's engines cannot be kept: {error}") from error
        tensorrt = TensorRT(engines, cache, variant.precision, self._profile())
        return GpuOptions(memory_limit_bytes, tensorrt=tensorrt)

    def _profile(self) -> dict[str, ShapeRange]:
        """Give the range of shapes that batches of this version can have, by input."""
        facts, batching = self._version.facts, self._version.manifest.batching
        assert facts is not None, "the facts are read first"
        shortest, longest = _axis_range(facts.input)
        best = min(batching.max_items, max(1, (batching.max_cost or batching.max_items * longest) // longest))
        inputs, _ = golden.read_golden_arrays(self._version.folder)

        def shape(row: tuple[int, ...], items: int, size: int) -> tuple[int, ...]:
            return (items, *row) if facts.input.kind == "image" else (items, *[size] * len(row))

        return {
            name: ShapeRange(
                shape(array.shape[1:], 1, shortest),
                shape(array.shape[1:], best, longest),
                shape(array.shape[1:], batching.max_items, longest),
            )
            for name, array in inputs.items()
        }

    def _seconds(self, session: Session) -> float:
        """Time one golden row; what does not run is left for the golden check to find."""
        try:
            inputs, _ = golden.read_golden_arrays(self._version.folder)
            row = {name: array[:1] for name, array in inputs.items()}
            times = []
            for _ in range(_TIMED_RUNS):
                started = time.monotonic()
                session.run(row)
                times.append(time.monotonic() - started)
        except KotaeError:
            return 0.0
        return min(times)

    def _check(self, session: Session, task: Task, batcher: Batcher) -> None:
        version = self._version
        assert version.variant is not None, "a session comes from a variant"
        lane = self._lanes.on(str(session.device))

        def run(inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
            return lane.call(lambda: session.run(inputs)).result()

        differences = golden.check_arrays(version.folder, version.variant, task, run)
        worst = max(differences.values())
        version.golden_check_error = max(worst, version.golden_check_error or 0.0)
        tolerance = version.variant.answer_tolerance
        golden.check_cases(version.folder, task, run, self._options.limits, tolerance)
        inputs, _ = golden.read_golden_arrays(version.folder)
        warm_up(session, lane, batcher, inputs, self._buckets() if session.device.kind != "cpu" else None)
        lane.call(lambda: session.shrink(inputs)).result()


def choose_variant(facts: VersionFacts, device: Device, precision: str = "auto") -> Variant:
    """Choose the variant that a device runs.

    Args:
        facts: Of the version.
        device: Where it is to run.
        precision: Which one is wanted; `auto` takes the first that is for the device.

    Raises:
        ModelRejected: There is none.
    """
    fitting = [variant for variant in facts.variants if device.kind in variant.devices]
    chosen = [variant for variant in fitting if precision in ("auto", variant.precision)]
    if not chosen:
        wanted = "variant" if precision == "auto" else f"{precision} variant"
        raise ModelRejected(f"no {wanted} is for {device.kind}")
    return chosen[0]


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


def _axis_range(spec: ImageInput | TextInput | AudioInput) -> tuple[int, int]:
    """Give the least and the largest size of the axis of an item that is not fixed; 1 where all are."""
    if isinstance(spec, TextInput):
        return 1, spec.max_tokens
    if isinstance(spec, AudioInput):
        return int(spec.min_seconds * spec.sample_rate), int(spec.max_seconds * spec.sample_rate)
    return 1, 1


def _check_signature(session: Session, task: Task) -> None:
    """Compare the graph's inputs and outputs with what the task's contract says."""
    for what, specs, wanted in (
        ("input", session.inputs, task.inputs),
        ("output", session.outputs, task.outputs),
    ):
        found = {spec.name: spec.dtype for spec in specs}
        if found != dict(wanted):
            raise ModelRejected(f"the graph's {what}s are {found}, {task.name} needs {dict(wanted)}")
        for spec in specs:
            if not spec.shape or spec.shape[0] is not None:
                raise ModelRejected(f"{what} {spec.name} has no dynamic batch axis: {list(spec.shape)}")


def _row_specs(session: Session) -> dict[str, RowSpec] | None:
    """Give each input's row if all of them have a fixed shape."""
    rows = {}
    for spec in session.inputs:
        shape = tuple(axis for axis in spec.shape[1:] if axis is not None)
        if len(shape) + 1 != len(spec.shape):
            return None
        rows[spec.name] = RowSpec(shape, spec.dtype)
    return rows
