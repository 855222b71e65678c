"""Every shipped model on this device against the CPU: the largest difference over its tolerance."""

from __future__ import annotations

from pathlib import Path

from benchmarks.gpu.results import Results
from service.engine.devices import Device, open_session
from service.engine.lane.lanes import Lanes
from service.engine.observer import Observer
from service.errors import KotaeError
from service.repository.catalog import Catalog
from service.repository.golden import read_golden_arrays
from service.repository.loader import LoadOptions
from service.repository.manifest import (
    MANIFEST_FILE,
    VERSION_FILE,
    ModelManifest,
    Variant,
    VersionFacts,
    read,
    version_folders,
)
from service.tasks import TASKS

PART = "Answers of the shipped models"


def compare_answers(models: Path, device: str, results: Results) -> None:
    """Compare each variant of each model that is for the device.

    Args:
        models: The model repository.
        device: `cpu` or `cuda`.
        results: Gets a line for each.
    """
    for path in sorted(models.glob(f"*/{MANIFEST_FILE}")):
        manifest = read(path, ModelManifest)
        for number, folder in version_folders(path.parent):
            facts = read(folder / VERSION_FILE, VersionFacts)
            for variant in facts.variants:
                if device not in variant.devices:
                    continue
                what = f"{manifest.name} {number} {variant.precision}"
                try:
                    shares = differences(manifest, folder, facts, variant, device)
                except KotaeError as error:
                    results.skip(PART, what, str(error))
                    continue
                note = ", ".join(f"{name} {share:.3g}" for name, share in shares.items())
                worst = max(shares.values())
                results.add(PART, what, [worst], "of the tolerance", goal=1.0, at_least=False, note=note)


def check_serving(models: Path, device: str, results: Results) -> None:
    """Load every shipped model as the service does, which checks its golden answers on the lane itself.

    Args:
        models: The model repository.
        device: `cpu` or `cuda`.
        results: Gets a line for each.
    """
    lanes = Lanes(Observer())
    catalog = Catalog(models, lanes, Observer(), LoadOptions(device=device))
    try:
        catalog.discover()
        catalog.load()
        for model in catalog.models.values():
            what, version = f"{model.name}, served", model.serving
            if version is None or version.golden_check_error is None:
                results.skip(PART, what, model.problem)
                continue
            note = "golden files answered alike; largest difference from PyTorch"
            results.add(PART, what, [version.golden_check_error], "", note=note)
    finally:
        lanes.stop()


def differences(
    manifest: ModelManifest, folder: Path, facts: VersionFacts, variant: Variant, device: str
) -> dict[str, float]:
    """Run the golden inputs of a version on both devices.

    Returns:
        Largest difference over the variant's tolerance, by output.

    Raises:
        KotaeError: It does not load or run.
    """
    task = TASKS[manifest.task](folder, facts)
    inputs, _ = read_golden_arrays(folder)
    plain = next((v for v in facts.variants if "cpu" in v.devices), variant)
    wanted = open_session(folder / plain.file, Device("cpu")).run(inputs)
    given = open_session(folder / variant.file, Device(device)).run(inputs)
    found = task.differences(wanted, given)
    return {name: difference / variant.tolerance[name] for name, difference in found.items()}
