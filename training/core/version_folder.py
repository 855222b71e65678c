"""The model folder that the service reads: written beside its place, checked, then moved into it.

Until the last step, a rename, nothing under the model's folder changes; if anything before it fails,
nothing is left behind. The layout is `service.repository.manifest`'s.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from service.engine.runtime.session import Device, Session
from service.errors import ModelRejected
from service.repository.golden import check_arrays, check_cases, check_files, write_golden_arrays
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
from training.core.export import TOLERANCE, check_parity, export_graph, run_network, varied_images
from training.errors import DataRejected, ExportFailed
from training.images.golden import GoldenFile, golden_cases
from training.images.learner import Learner
from training.images.metrics import Answers, Evaluation, HeldOut, answers_of_version, evaluate

Figures = TypeVar("Figures")
Golden = Sequence[tuple[GoldenCase, bytes]]  # answers, and the files that they are to

GRAPH_FILE = "model.onnx"
LABELS_FILE = "labels.txt"
_QUANTILES = {"p01": 0.01, "p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a version goes.

    Attributes:
        models: The model repository.
        version: Number; None is the next free one.
        overwrite: Replace the version if it is there.
    """

    models: Path
    version: int | None = None
    overwrite: bool = False

    def resolve(self, name: str) -> Path:
        """Find the version's folder.

        Raises:
            DataRejected: The version is there and may not be replaced.
        """
        folder = self.models / name
        taken = [number for number, _ in version_folders(folder)] if folder.is_dir() else []
        number = self.version or max(taken, default=0) + 1
        if number in taken and not self.overwrite:
            raise DataRejected(f"{folder / str(number)} exists: a version is replaced only with --overwrite")
        return folder / str(number)


@dataclass(frozen=True, slots=True)
class Origin:
    """What a version is made from and judged by.

    Attributes:
        held_out: The test part's raw files.
        golden: Raw files to publish, none of them from the training part.
        split: Name of the split, for the metrics.
    """

    provenance: Provenance
    held_out: HeldOut
    golden: tuple[GoldenFile, ...]
    split: str


def write_version(learner: Learner, origin: Origin, place: Place) -> tuple[Path, Evaluation]:
    """Export a picture classifier into a model folder and prove it; see `publish`.

    Returns:
        The version's folder, and the figures of the exported graph on the held-out files.
    """
    return publish(learner.recipe.manifest, place, lambda folder: _fill(folder, learner, origin))


def publish(
    manifest: ModelManifest, place: Place, fill: Callable[[Path], tuple[VersionFacts, Figures]]
) -> tuple[Path, Figures]:
    """Make a version, prove it and put it into its place.

    Args:
        manifest: Written beside the version if there is none.
        place: Where the version goes.
        fill: Writes every file of a version into a folder, `version.yaml` last; returns what that says,
            and figures.

    Returns:
        The version's folder, and the figures.

    Raises:
        ExportFailed: The graph or the folder does not answer as PyTorch does; nothing was written.
        DataRejected: The place is taken.
    """
    target = place.resolve(manifest.name)
    _check_owner(target.parent, manifest)
    new_model = not target.parent.exists()
    staging = target.parent / f".{target.name}.partial"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        facts, figures = fill(staging)
        _check(staging, facts, manifest)
        if not (target.parent / MANIFEST_FILE).exists():
            write(target.parent / MANIFEST_FILE, manifest)
        _move(staging, target)
    except BaseException:
        shutil.rmtree(target.parent if new_model else staging, ignore_errors=True)
        raise
    return target, figures


def _check_owner(folder: Path, manifest: ModelManifest) -> None:
    """Leave an existing `model.yaml` to its owner, but only if it is this model's."""
    if not (folder / MANIFEST_FILE).exists():
        return
    present = read(folder / MANIFEST_FILE, ModelManifest)
    if (present.name, present.task) != (manifest.name, manifest.task):
        raise DataRejected(
            f"{folder / MANIFEST_FILE} is of {present.name} ({present.task}), "
            f"not of {manifest.name} ({manifest.task})"
        )


def _fill(folder: Path, learner: Learner, origin: Origin) -> tuple[VersionFacts, Evaluation]:
    """Write every file of a version, `version.yaml` last."""
    task, spec = learner.recipe.manifest.task, learner.recipe.input
    network = learner.eval().graph
    (folder / LABELS_FILE).write_text("\n".join(learner.classes) + "\n", encoding="utf-8")
    export_graph(network, task, spec, folder / GRAPH_FILE)
    images = varied_images(np.stack([golden.image for golden in origin.golden]), learner.recipe.seed)
    check_parity(network, task, folder / GRAPH_FILE, images)
    (input_name,) = TASKS[task].inputs
    write_golden_arrays(folder, {input_name: images}, run_network(network, task, images))
    write_golden_files(folder, golden_cases(learner, origin.golden))
    draft = VersionFacts(
        created=datetime.now(UTC).replace(microsecond=0),
        provenance=origin.provenance,
        input=spec,
        labels=LABELS_FILE,
        variants=(Variant(file=GRAPH_FILE, tolerance=dict.fromkeys(TASKS[task].outputs, TOLERANCE)),),
        files=hashes(folder),
    )
    answers = answers_of_version(folder, origin.held_out, draft)
    evaluation = evaluate(answers, origin.held_out, learner.classes)
    facts = _with_figures(draft, evaluation, answers, origin, learner.classes)
    write(folder / VERSION_FILE, facts)
    return facts, evaluation


def picture_figures(evaluation: Evaluation) -> dict[str, float]:
    """Give the figures that `version.yaml` says."""
    plain = evaluation.plain
    figures = {
        "accuracy": plain.accuracy,
        "macro_f1": plain.macro_f1,
        "calibration_error": plain.calibration_error,
    }
    if evaluation.redrawn:
        figures["redrawn_accuracy"] = evaluation.redrawn.accuracy
    return figures


def _with_figures(
    draft: VersionFacts, evaluation: Evaluation, answers: Answers, origin: Origin, classes: tuple[str, ...]
) -> VersionFacts:
    plain, redrawn = evaluation.plain, evaluation.redrawn
    counts: dict[str, float | str] = {"held_out_items": float(plain.items), "split": origin.split}
    if redrawn:
        counts["redrawn_items"] = float(redrawn.items)
    typical = answers.redrawn if redrawn else answers.plain
    return with_figures(draft, picture_figures(evaluation), counts, _baseline(typical, classes))


def with_figures(
    draft: VersionFacts, figures: Mapping[str, float], counts: dict[str, float | str], baseline: Baseline
) -> VersionFacts:
    """Add figures to what `version.yaml` will say, rounded to five digits."""
    rounded = {name: round(value, 5) for name, value in figures.items()}
    return draft.model_copy(
        update={
            "variants": (draft.variants[0].model_copy(update={"metrics": rounded}),),
            "metrics": rounded | counts,
            "baseline": baseline,
        }
    )


def write_golden_files(folder: Path, golden: Golden) -> None:
    """Write raw files and the answers to them into a version's folder."""
    (folder / GOLDEN_CASES_FILE).parent.mkdir(exist_ok=True)
    for case, content in golden:
        (folder / GOLDEN_CASES_FILE).with_name(case.file).write_bytes(content)
    write(folder / GOLDEN_CASES_FILE, GoldenCases(cases=tuple(case for case, _ in golden)))


def _baseline(probabilities: NDArray[np.float32], classes: tuple[str, ...]) -> Baseline:
    mix = np.bincount(probabilities.argmax(axis=1), minlength=len(classes)) / len(probabilities)
    best = probabilities.max(axis=1)
    return Baseline(
        class_mix={name: round(float(share), 4) for name, share in zip(classes, mix, strict=True)},
        confidence=quantiles(best),
    )


def quantiles(confidence: NDArray[np.floating]) -> dict[str, float]:
    """Give the quantiles of the top scores that drift is told by."""
    return {name: round(float(np.quantile(confidence, share)), 4) for name, share in _QUANTILES.items()}


def hashes(folder: Path) -> dict[str, str]:
    """Hash every file of a version, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}


def _check(folder: Path, facts: VersionFacts, manifest: ModelManifest) -> None:
    """Do what the service will do before this version may answer."""
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
    """Put the version into its place; a rename, so that no reader sees half of it."""
    old = target.parent / f".{target.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    staging.rename(target)
    shutil.rmtree(old, ignore_errors=True)
