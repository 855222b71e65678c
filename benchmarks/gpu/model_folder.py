"""ResNet-50 as a model folder that the service loads, with a variant for each precision."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from benchmarks.gpu.networks import Network, image_size
from benchmarks.payloads import jpeg, photograph
from benchmarks.reference_models import GRAPH_FILE, finish_version, new_version
from benchmarks.workloads import Workload
from service.repository.manifest import Batching, ImageInput, ModelManifest, Variant
from service.repository.overrides import ModelOverrides, Overrides, write_overrides

MODEL = "resnet50"
_HALF_FILE = "model.fp16.onnx"
_DEADLINE_SECONDS = 60.0  # of a request without one: nothing is to be refused here
_CLASSES = 1000
# With random weights all classes are nearly equal, so small differences mean nothing here.
_TOLERANCES = {"tolerance": {"probabilities": 0.05}, "answer_tolerance": 0.05}


def write_model(root: Path, network: Network, *, small: bool) -> Workload:
    """Write the folder.

    Args:
        root: The folder `models` is made in it.
        network: ResNet-50.
        small: Whether the network is tiny.
    """
    folder = new_version(root, MODEL)
    for precision, name in (("fp32", GRAPH_FILE), ("fp16", _HALF_FILE)):
        shutil.copyfile(network.paths[precision], folder / name)
    (folder / "labels.txt").write_text("".join(f"class {i}\n" for i in range(_CLASSES)))
    side = image_size(small=small)
    manifest = ModelManifest(
        name=MODEL,
        task="image-classification",
        batching=Batching(max_items=2 if small else 256, max_queue_items=65536),
        deadline_seconds=_DEADLINE_SECONDS,
    )
    variants = tuple(
        Variant.model_validate({"file": name, "precision": precision, **_TOLERANCES})
        for precision, name in (("fp32", GRAPH_FILE), ("fp16", _HALF_FILE))
    )
    finish_version(
        folder,
        manifest,
        network.batch(3),
        ("0.jpg", jpeg(photograph(side, side, 0))),
        input=ImageInput(width=side, height=side),
        labels="labels.txt",
        variants=variants,
    )
    return Workload(MODEL, manifest.task, folder, (), network.paths["fp32"])


def with_items(workload: Workload, items: list[bytes]) -> Workload:
    """Return the workload with other items."""
    return replace(workload, items=tuple(items))


def write_choice(root: Path, precision: str, max_items: int) -> Path:
    """Write an overrides file that chooses a precision and the size of batches."""
    path = root / f"overrides-{precision}-{max_items}.yaml"
    choice = {"precision": precision, "batching": Batching(max_items=max_items)}
    write_overrides(path, Overrides(models={MODEL: ModelOverrides.model_validate(choice)}))
    return path
