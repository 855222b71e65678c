"""The ONNX Runtime sessions of one version: which variant, on which devices, with which options."""

from __future__ import annotations

import time
from pathlib import Path

from service.engine.cuda.driver import tensorrt_version
from service.engine.cuda.gpu_session import GpuSession
from service.engine.cuda.providers import GpuOptions, GpuProvider, ShapeRange, TensorRT
from service.engine.devices import choose_devices
from service.engine.runtime.cpus import CpuPlan
from service.engine.runtime.device import Device
from service.engine.runtime.session import Session, runtime_version
from service.engine.runtime.shape_buckets import Buckets
from service.errors import KotaeError, ModelRejected
from service.repository.golden import read_golden_arrays
from service.repository.manifest import (
    AudioInput,
    ImageInput,
    ModelManifest,
    TextInput,
    Variant,
    VersionFacts,
)
from service.repository.overrides import ModelOverrides
from service.tasks import Task

_SHORT_RUN_SECONDS = 0.002  # a shorter run loses more by waking threads than it gains
_TIMED_RUNS = 3


class SessionFactory:
    """Creates the sessions of one version.

    Args:
        folder: The version's folder.
        manifest: The model's manifest.
        facts: The version's facts.
        overrides: What this host changes about the model.
        gpu_provider: What runs graphs on GPUs, unless the overrides say something else.
        cpu: How CPU sessions share the CPUs.
        tensorrt_cache: Folder in which TensorRT keeps its engines and timings.
    """

    def __init__(
        self,
        folder: Path,
        manifest: ModelManifest,
        facts: VersionFacts,
        overrides: ModelOverrides,
        *,
        gpu_provider: GpuProvider,
        cpu: CpuPlan,
        tensorrt_cache: Path,
    ) -> None:
        self._folder = folder
        self._manifest = manifest
        self._facts = facts
        self._overrides = overrides
        self._gpu_provider: GpuProvider = overrides.provider or gpu_provider
        self._cpu = cpu
        self._tensorrt_cache = tensorrt_cache.expanduser()

    def devices(self, default: str) -> tuple[Device, ...]:
        """Return the devices of the manifest; the CPU appears once per CPU lane of the model.

        Args:
            default: What `auto` in the manifest means.

        Raises:
            StartFailed: A device does not exist.
        """
        names = (default if name == "auto" else name for name in self._manifest.devices)
        found = (device for name in names for device in choose_devices(name, self._gpu_provider))
        lanes = self._overrides.lanes or self._cpu.lanes
        return tuple(
            Device(device.kind, device.index + lane)
            for device in dict.fromkeys(found)
            for lane in range(lanes if device.kind == "cpu" else 1)
        )

    def provider(self, device: Device) -> str:
        """Return what runs the graph on a device: `cpu`, `cuda` or `tensorrt`."""
        return "cpu" if device.kind == "cpu" else self._gpu_provider

    def variant(self, device: Device) -> Variant:
        """Return the variant for a device; see `choose_variant`."""
        return choose_variant(self._facts, device, self._overrides.precision)

    def create(self, device: Device, task: Task) -> Session:
        """Return a new session on a device.

        Raises:
            ModelRejected: The graph does not load, or its inputs and outputs are not those of the task.
        """
        variant = self.variant(device)
        path = self._folder / variant.file
        if device.kind == "cpu":
            return self._create_on_cpu(path, device, task)
        session = GpuSession(path, device, gpu=self._gpu_options(variant))
        _check_signature(session, task)
        session.bind(self.buckets())
        return session

    def buckets(self) -> Buckets:
        """Return the shapes of batches on a GPU."""
        spec = self._facts.input
        longest = None if isinstance(spec, ImageInput) else _length_range(spec)[1]
        return Buckets(self._manifest.batching.max_items, longest)

    def _create_on_cpu(self, path: Path, device: Device, task: Task) -> Session:
        plan = self._cpu
        threads = self._overrides.threads or (plan.threads if plan.asked else None)
        session = Session(path, device, threads=threads or 1, spinning=plan.spinning)
        _check_signature(session, task)
        if threads or plan.threads == 1 or time_golden_row(session, self._folder) < _SHORT_RUN_SECONDS:
            return session
        return Session(path, device, threads=plan.threads, spinning=plan.spinning)

    def _gpu_options(self, variant: Variant) -> GpuOptions:
        memory_limit_bytes = self._manifest.memory_limit_bytes
        if self._gpu_provider == "cuda":
            fixed_shape = isinstance(self._facts.input, ImageInput)
            return GpuOptions(memory_limit_bytes, cuda_graph=fixed_shape and self._overrides.cuda_graphs)
        cache = self._tensorrt_cache / f"tensorrt-{tensorrt_version()}-onnxruntime-{runtime_version()}"
        content_hash = self._facts.files[variant.file].partition(":")[2]
        engines = cache / f"{self._manifest.name}-{self._folder.name}-{content_hash[:12]}"
        try:
            engines.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ModelRejected(f"the folder for TensorRT engines cannot be created: {error}") from error
        tensorrt = TensorRT(engines, cache, variant.precision, self._shape_ranges())
        return GpuOptions(memory_limit_bytes, tensorrt=tensorrt)

    def _shape_ranges(self) -> dict[str, ShapeRange]:
        """Return the range of batch shapes of this version, by input."""
        batching, is_image = self._manifest.batching, isinstance(self._facts.input, ImageInput)
        shortest, longest = _length_range(self._facts.input)
        best = min(batching.max_items, max(1, (batching.max_cost or batching.max_items * longest) // longest))
        inputs, _ = read_golden_arrays(self._folder)

        def shape(row: tuple[int, ...], items: int, length: int) -> tuple[int, ...]:
            return (items, *row) if is_image else (items, *[length] * len(row))

        return {
            name: ShapeRange(
                shape(array.shape[1:], 1, shortest),
                shape(array.shape[1:], best, longest),
                shape(array.shape[1:], batching.max_items, longest),
            )
            for name, array in inputs.items()
        }


def choose_variant(facts: VersionFacts, device: Device, precision: str = "auto") -> Variant:
    """Return the variant that a device runs.

    Args:
        facts: The version's facts.
        device: The device.
        precision: The wanted precision; `auto` takes the first variant for the device.

    Raises:
        ModelRejected: There is none.
    """
    possible = [variant for variant in facts.variants if device.kind in variant.devices]
    chosen = [variant for variant in possible if precision in ("auto", variant.precision)]
    if not chosen:
        wanted = "variant" if precision == "auto" else f"{precision} variant"
        raise ModelRejected(f"no {wanted} is for {device.kind}")
    return chosen[0]


def time_golden_row(session: Session, folder: Path) -> float:
    """Return the seconds of a run with one golden row; 0 if it fails, which the golden check reports."""
    try:
        inputs, _ = read_golden_arrays(folder)
        row = {name: array[:1] for name, array in inputs.items()}
        times = []
        for _ in range(_TIMED_RUNS):
            started = time.monotonic()
            session.run(row)
            times.append(time.monotonic() - started)
    except KotaeError:
        return 0.0
    return min(times)


def _length_range(spec: ImageInput | TextInput | AudioInput) -> tuple[int, int]:
    """Return the smallest and largest length of an item: tokens or samples; 1 for images."""
    if isinstance(spec, TextInput):
        return 1, spec.max_tokens
    if isinstance(spec, AudioInput):
        return int(spec.min_seconds * spec.sample_rate), int(spec.max_seconds * spec.sample_rate)
    return 1, 1


def _check_signature(session: Session, task: Task) -> None:
    """Check that the graph has the inputs and outputs of the task."""
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
