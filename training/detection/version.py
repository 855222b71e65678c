"""A version of a detector: graph, labels, golden arrays and golden pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from service.engine.runtime.session import Device, Session
from service.repository.golden import write_golden_arrays
from service.repository.manifest import (
    GOLDEN_CASES_FILE,
    VERSION_FILE,
    Baseline,
    GoldenCase,
    GoldenCases,
    Provenance,
    Variant,
    VersionFacts,
    write,
)
from training.core.export import EXPORT_BATCH, write_graph
from training.core.version_folder import GRAPH_FILE, LABELS_FILE, hashes, quantiles
from training.detection.calibration import calibrate
from training.detection.dataset import AnnotatedFile, decoded
from training.detection.learner import DetectorLearner
from training.detection.metrics import THRESHOLD, DetectionFigures, matches, measure
from training.detection.predict import Found, answers_of_checkpoint, answers_of_version
from training.detection.reference_decoder import TOLERANCES, check_parity, unambiguous
from training.errors import ExportFailed
from training.networks.detector import STRIDE

_GOLDEN = 6
_PUBLISHED_ARRAYS = 3
_LARGEST_BYTES = 150_000  # of a golden file: a model folder is kept in a repository
_SCORE_TOLERANCE = 0.02


@dataclass(frozen=True, slots=True)
class Origin:
    """What a version is made from and judged by.

    Attributes:
        validation: Raw files, of which some are published with the model.
        held_out: The test part's raw files.
        split: Name of the split, for the metrics.
    """

    provenance: Provenance
    validation: Sequence[AnnotatedFile]
    held_out: Sequence[AnnotatedFile]
    split: str


@dataclass(frozen=True, slots=True)
class Measured:
    """The held-out part: what is there, what an exported version found, and how good that is."""

    files: Sequence[AnnotatedFile]
    found: Sequence[Found]
    figures: DetectionFigures


def fill_version(folder: Path, learner: DetectorLearner, origin: Origin) -> tuple[VersionFacts, Measured]:
    """Write every file of a version, `version.yaml` last.

    Raises:
        ExportFailed: The graph does not find what PyTorch finds.
    """
    learner.eval()
    calibrate(learner, origin.validation)
    recipe = learner.recipe
    (folder / LABELS_FILE).write_text("\n".join(learner.classes) + "\n", encoding="utf-8")
    export_detector(learner, folder / GRAPH_FILE)
    golden = _golden_files(learner, origin.validation)
    images = np.stack([decoded(file, recipe.input)[0] for file, _ in golden[:_PUBLISHED_ARRAYS]])
    images = np.concatenate([images, _extremes(images.shape[1:])])
    check_parity(learner.graph, Session(folder / GRAPH_FILE, Device("cpu")), images, STRIDE)
    images = images[unambiguous(learner.graph, images, STRIDE)]
    write_golden_arrays(folder, {"image": images}, _outputs(learner, images))
    (folder / GOLDEN_CASES_FILE).parent.mkdir()
    cases = []
    for file, found in golden:
        (folder / "golden" / file.name).write_bytes(file.file)
        answer = _answer(found, learner.classes)
        cases.append(GoldenCase(file=file.name, answer=answer, tolerance=_SCORE_TOLERANCE))
    write(folder / GOLDEN_CASES_FILE, GoldenCases(cases=tuple(cases)))
    draft = VersionFacts(
        created=datetime.now(UTC).replace(microsecond=0),
        provenance=origin.provenance,
        input=recipe.input,
        labels=LABELS_FILE,
        variants=(Variant(file=GRAPH_FILE, tolerance=TOLERANCES),),
        files=hashes(folder),
    )
    found_there = answers_of_version(folder, origin.held_out, draft)
    pictures = list(zip(origin.held_out, found_there, strict=True))
    figures = measure(pictures, learner.classes)
    facts = _with_figures(draft, figures, found_there, origin, learner.classes)
    write(folder / VERSION_FILE, facts)
    return facts, Measured(origin.held_out, found_there, figures)


def export_detector(learner: DetectorLearner, path: Path) -> None:
    """Write the whole network, pixels to boxes, as one ONNX file."""
    recipe = learner.recipe
    example = torch.zeros((EXPORT_BATCH, recipe.input.height, recipe.input.width, 3), dtype=torch.uint8)
    write_graph(learner.graph, recipe.manifest.task, (example,), ({0: torch.export.Dim("N", min=1)},), path)


def _outputs(learner: DetectorLearner, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    with torch.inference_mode():
        boxes, scores, labels = learner.graph(torch.from_numpy(images))
    return {"boxes": boxes.numpy(), "scores": scores.numpy(), "labels": labels.numpy()}


def _extremes(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Make pictures that nobody sends: black, white, a ramp and a checkerboard, u8 [4, H, W, 3]."""
    height, width, _ = shape
    ramp = np.broadcast_to(np.linspace(0, 255, width)[None, :, None], shape)
    checks = np.broadcast_to((np.indices((height, width)).sum(axis=0) // 8 % 2 * 255)[..., None], shape)
    return np.stack([np.zeros(shape), np.full(shape, 255), ramp, checks]).astype(np.uint8)


def _golden_files(
    learner: DetectorLearner, files: Sequence[AnnotatedFile]
) -> list[tuple[AnnotatedFile, Found]]:
    """Choose small files of different looks that are answered rightly and surely, every second one as JPEG.

    Raises:
        ExportFailed: The network finds nothing rightly.
    """
    published = [_as_jpeg(file) if i % 2 else file for i, file in enumerate(files)]
    small = [file for file in published if len(file.file) <= _LARGEST_BYTES] or published
    ranked = []
    for file, found in zip(small, answers_of_checkpoint(learner, small), strict=True):
        sure = found.scores >= THRESHOLD
        right = len(matches(file, found, sure))
        mistakes = int(sure.sum()) - right + len(file.labels) - right
        # What is nearly at the threshold on one machine might be below it on the next.
        doubtful = int((np.abs(found.scores - THRESHOLD) < 2 * _SCORE_TOLERANCE).sum())
        if right and not doubtful:
            ranked.append((mistakes, -right, file, found))
    ranked.sort(key=lambda row: row[:2])
    chosen: dict[tuple[str, ...], tuple[AnnotatedFile, Found]] = {}
    for _, _, file, found in ranked:
        kind = (*file.traits, Path(file.name).suffix)
        if kind in chosen or file.name in (other.name for other, _ in chosen.values()):
            continue
        if unambiguous(learner.graph, decoded(file, learner.recipe.input)[0][None], STRIDE).all():
            chosen[kind] = file, found
    if not chosen:
        raise ExportFailed("the network finds nothing surely: train it first. Nothing was written")
    return list(chosen.values())[:_GOLDEN]


def _as_jpeg(file: AnnotatedFile) -> AnnotatedFile:
    with Image.open(BytesIO(file.file)) as picture:
        if picture.format == "JPEG":
            return file
        saved = BytesIO()
        picture.convert("RGB").save(saved, format="JPEG", quality=88)
    name = re.sub(r"\.\w+$", "", file.name) + ".jpg"
    return AnnotatedFile(name, saved.getvalue(), file.boxes_xyxy, file.labels, file.traits)


def _answer(found: Found, classes: tuple[str, ...]) -> dict[str, object]:
    """Write down what a client gets, from what PyTorch found."""
    names = ("x_min", "y_min", "x_max", "y_max")
    detections = [
        {
            "label": classes[label],
            "score": round(score, 4),
            "box": {name: round(edge, 2) for name, edge in zip(names, box, strict=True)},
        }
        for box, score, label in zip(
            found.boxes_xyxy.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
        )
        if score >= THRESHOLD
    ]
    return {"width": found.size[0], "height": found.size[1], "detections": detections}


def detector_figures(figures: DetectionFigures) -> dict[str, float]:
    """Give the figures that `version.yaml` says."""
    names = ("ap", "ap50", "ap75", "precision", "recall")
    return {name: cast(float, getattr(figures, name)) for name in names}


def _with_figures(
    draft: VersionFacts,
    figures: DetectionFigures,
    found: Sequence[Found],
    origin: Origin,
    classes: tuple[str, ...],
) -> VersionFacts:
    numbers = {name: round(value, 5) for name, value in detector_figures(figures).items()}
    counts: dict[str, float | str] = {
        "held_out_items": float(figures.pictures),
        "held_out_things": float(figures.things),
        "split": origin.split,
    }
    labels = np.concatenate([one.labels[one.scores >= THRESHOLD] for one in found])
    scores = np.concatenate([one.scores[one.scores >= THRESHOLD] for one in found])
    mix = np.bincount(labels, minlength=len(classes)) / max(1, len(labels))
    shares = {name: round(float(share), 4) for name, share in zip(classes, mix, strict=True)}
    baseline = Baseline(class_mix=shares, confidence=quantiles(scores) if scores.size else {})
    return draft.model_copy(
        update={
            "variants": (draft.variants[0].model_copy(update={"metrics": numbers}),),
            "metrics": numbers | counts,
            "baseline": baseline,
        }
    )
