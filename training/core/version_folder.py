"""The model folder of the service: a version is written to a staging folder, checked, then renamed.

Nothing under the model's folder changes before the last step, the rename. If a step before it fails, nothing
is left behind. The layout is defined in `service.repository.manifest`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.engine.runtime.session import Device, Session
from service.errors import ModelRejected
from service.repository.golden import check_arrays, check_cases, check_files
from service.repository.manifest import (
    GOLDEN_CASES_FILE,
    MANIFEST_FILE,
    VERSION_FILE,
    Baseline,
    GoldenCase,
    GoldenCases,
    ModelManifest,
    Provenance,
    Variant,
    VersionFacts,
    read,
    sha256_of,
    version_folders,
    write,
)
from service.tasks import TASKS, Limits
from training.core.export import GRAPH_FILE
from training.errors import DataRejected, ExportFailed

Result = TypeVar("Result")
Golden = Sequence[tuple[GoldenCase, bytes]]  # golden answers with their raw files

LABELS_FILE = "labels.txt"
_QUANTILES = {"p01": 0.01, "p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95}


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a version is written.

    Attributes:
        models: The model repository.
        version: Version number; None is the next free one.
        overwrite: Whether an existing version may be replaced.
    """

    models: Path
    version: int | None = None
    overwrite: bool = False

    def resolve(self, name: str) -> Path:
        """Return the version's folder.

        Raises:
            DataRejected: The version exists and may not be replaced.
        """
        folder = self.models / name
        taken = [number for number, _ in version_folders(folder)] if folder.is_dir() else []
        number = self.version or max(taken, default=0) + 1
        if number in taken and not self.overwrite:
            raise DataRejected(f"{folder / str(number)} exists: a version is replaced only with --overwrite")
        return folder / str(number)


def publish(
    manifest: ModelManifest,
    destination: Destination,
    fill: Callable[[Path], tuple[VersionFacts, Result]],
) -> tuple[Path, Result]:
    """Write a version, check it and move it to its destination.

    Args:
        manifest: Written beside the version if there is none.
        destination: Where the version goes.
        fill: Writes every file of a version into a folder, `version.yaml` last; returns the content of
            `version.yaml`, and a result.

    Returns:
        The version's folder, and the result of `fill`.

    Raises:
        ExportFailed: The graph or the folder does not answer as PyTorch does; nothing was written.
        DataRejected: The version exists, or the folder belongs to another model.
    """
    target = destination.resolve(manifest.name)
    _check_owner(target.parent, manifest)
    new_model = not target.parent.exists()
    staging = target.parent / f".{target.name}.partial"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        facts, result = fill(staging)
        _check(staging, facts, manifest)
        if not (target.parent / MANIFEST_FILE).exists():
            write(target.parent / MANIFEST_FILE, manifest)
        _move(staging, target)
    except BaseException:
        shutil.rmtree(target.parent if new_model else staging, ignore_errors=True)
        raise
    return target, result


def _check_owner(folder: Path, manifest: ModelManifest) -> None:
    """Refuse a folder whose `model.yaml` belongs to another model."""
    if not (folder / MANIFEST_FILE).exists():
        return
    present = read(folder / MANIFEST_FILE, ModelManifest)
    if (present.name, present.task) != (manifest.name, manifest.task):
        raise DataRejected(
            f"{folder / MANIFEST_FILE} is of {present.name} ({present.task}), "
            f"not of {manifest.name} ({manifest.task})"
        )


def draft_facts(
    folder: Path, provenance: Provenance, tolerance: Mapping[str, float], **content: Any
) -> VersionFacts:
    """Return the content of `version.yaml` before metrics are known.

    Args:
        folder: The version's folder, whose files are hashed.
        provenance: Where the version comes from.
        tolerance: Allowed difference from PyTorch, by output name.
        content: Further fields, such as `input` and `labels`.
    """
    variant = Variant(file=GRAPH_FILE, tolerance=dict(tolerance))
    created = datetime.now(UTC).replace(microsecond=0)
    return VersionFacts(
        created=created, provenance=provenance, variants=(variant,), files=hashes(folder), **content
    )


def with_metrics(
    draft: VersionFacts,
    metrics: Mapping[str, float],
    counts: Mapping[str, float | str],
    baseline: Baseline,
) -> VersionFacts:
    """Return the content of `version.yaml` with metrics, rounded to five digits."""
    rounded = {name: round(value, 5) for name, value in metrics.items()}
    return draft.model_copy(
        update={
            "variants": (draft.variants[0].model_copy(update={"metrics": rounded}),),
            "metrics": {**rounded, **counts},
            "baseline": baseline,
        }
    )


def write_labels(folder: Path, labels: Sequence[str]) -> None:
    """Write the labels of a version, one per line."""
    (folder / LABELS_FILE).write_text("\n".join(labels) + "\n", encoding="utf-8")


def write_golden_files(folder: Path, golden: Golden) -> None:
    """Write raw files and their golden answers into a version's folder."""
    (folder / GOLDEN_CASES_FILE).parent.mkdir(exist_ok=True)
    for case, content in golden:
        (folder / GOLDEN_CASES_FILE).with_name(case.file).write_bytes(content)
    write(folder / GOLDEN_CASES_FILE, GoldenCases(cases=tuple(case for case, _ in golden)))


def baseline_of(
    confidence: Sequence[float] | NDArray[np.floating], class_mix: Mapping[str, float] | None = None
) -> Baseline:
    """Return the distribution of a version's answers, against which the service measures drift.

    Args:
        confidence: Score of each answer.
        class_mix: Share of each label among the answers.
    """
    scores = np.asarray(confidence)
    return Baseline(
        class_mix={name: round(float(share), 4) for name, share in (class_mix or {}).items()},
        confidence={name: round(float(np.quantile(scores, share)), 4) for name, share in _QUANTILES.items()}
        if scores.size
        else {},
    )


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a version, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


def _check(folder: Path, facts: VersionFacts, manifest: ModelManifest) -> None:
    """Run the checks that the service runs before a version may answer."""
    if read(folder / VERSION_FILE, VersionFacts) != facts:
        raise ExportFailed("version.yaml does not read back as it was written. Nothing was written")
    task = TASKS[manifest.task](folder, facts)
    try:
        check_files(folder, facts)
        for variant in facts.variants:
            run = Session(folder / variant.file, Device("cpu")).run
            check_arrays(folder, variant, task, run)
            check_cases(folder, task, run, Limits(), variant.answer_tolerance)
    except ModelRejected as error:
        raise ExportFailed(
            f"the exported version fails its golden check: {error}. Nothing was written"
        ) from error


def _move(staging: Path, target: Path) -> None:
    """Rename the staging folder to its destination, so that no reader sees an incomplete version."""
    old = target.parent / f".{target.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    staging.rename(target)
    shutil.rmtree(old, ignore_errors=True)
