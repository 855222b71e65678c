"""Evaluate: held-out raw files -> figures, for the checkpoint and for the exported graph alike.

Every picture starts as a file and is decoded by `service.tasks`; for the exported graph it then goes
through ONNX Runtime and becomes the answer that a client gets, which is what is counted.

Letters in shapes: `N` pictures, `H` `W` size, `C` channels, `K` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from service.repository.manifest import VERSION_FILE, VersionFacts, read
from service.tasks import Limits
from service.tasks.classification import Classification, ClassificationParameters
from service.tasks.image.preprocessing import ImageClassification
from training.core.session import open_graph
from training.data.split import Indices
from training.images.learner import Learner
from training.images.redraw import Look
from training.images.source import PictureSource, decode_files

TEST_SEED = 2_000_003  # redrawings of the test part
CALIBRATION_BINS = 15
_BATCH = 64


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """One row of the per-class table."""

    label: str
    items: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class Figures:
    """How good answers were.

    Attributes:
        accuracy: Share of pictures whose best label is right.
        macro_f1: Mean of the classes' F1.
        calibration_error: Expected calibration error (Guo et al. 2017, arXiv:1706.04599, equation 3):
            mean distance of confidence and accuracy over 15 bins of confidence.
        confusion: Counts, by true class, then by answered class.
    """

    items: int
    accuracy: float
    macro_f1: float
    calibration_error: float
    per_class: tuple[ClassFigures, ...]
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Raw files that nothing learnt from.

    Attributes:
        files: As the data has them.
        labels: i64, one a file.
        redrawn: Redrawn as people send them; may be empty.
        looks: One a redrawn file.
        redrawn_labels: i64, one a redrawn file.
    """

    files: list[bytes]
    labels: NDArray[np.int64]
    redrawn: list[bytes]
    looks: list[Look]
    redrawn_labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Answers:
    """Probabilities f32 [N, K] for a `HeldOut`'s files and for its redrawn ones."""

    plain: NDArray[np.float32]
    redrawn: NDArray[np.float32]


def held_out(source: PictureSource, indices: Indices, seed: int = TEST_SEED) -> HeldOut:
    """Make the raw files of a held-out part."""
    redrawings = source.redrawn(indices, seed)
    return HeldOut(
        source.files(indices),
        source.labels[indices],
        [redrawing.file for redrawing in redrawings],
        [redrawing.look for redrawing in redrawings],
        np.repeat(source.labels[indices], source.redrawings if redrawings else 0),
    )


def answers_of_checkpoint(learner: Learner, pictures: HeldOut) -> Answers:
    """Classify with PyTorch."""

    def classify_files(files: Sequence[bytes]) -> NDArray[np.float32]:
        if not files:
            return np.zeros((0, len(learner.classes)), np.float32)
        return probabilities_of(learner, decode_files(files, learner.recipe.input))

    return Answers(classify_files(pictures.files), classify_files(pictures.redrawn))


def probabilities_of(learner: Learner, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Classify u8 [N, H, W, C] with PyTorch; returns f32 [N, K]."""
    learner.eval()
    with torch.inference_mode():
        batches = [
            learner.graph(torch.from_numpy(images[i : i + _BATCH])) for i in range(0, len(images), _BATCH)
        ]
        return cast(NDArray[np.float32], torch.cat(batches).numpy())


def answers_of_version(folder: Path, pictures: HeldOut, facts: VersionFacts | None = None) -> Answers:
    """Classify with an exported version, from raw file to the client's answer.

    Args:
        folder: The version's folder.
        pictures: What to answer.
        facts: The version's facts; None reads them from the folder.
    """
    facts = facts or read(folder / VERSION_FILE, VersionFacts)
    task = ImageClassification(folder, facts)
    session = open_graph(folder, facts)
    everything = ClassificationParameters(top_k=len(task.labels))

    def classify_files(files: Sequence[bytes]) -> NDArray[np.float32]:
        rows = [np.zeros((0, len(task.labels)), np.float32)]
        for start in range(0, len(files), _BATCH):
            decoded = [task.decode(file, Limits(), everything) for file in files[start : start + _BATCH]]
            rows_in = [item.parts[0] for item in decoded]
            outputs = session.run({name: np.stack([row[name] for row in rows_in]) for name in task.inputs})
            for i, item in enumerate(decoded):
                row = {name: array[i] for name, array in outputs.items()}
                answer = task.answer([row], item, everything)
                rows.append(_row(cast(Classification, answer), task.labels))
        return np.concatenate(rows)

    return Answers(classify_files(pictures.files), classify_files(pictures.redrawn))


def _row(answer: Classification, labels: tuple[str, ...]) -> NDArray[np.float32]:
    scores = {prediction["label"]: prediction["score"] for prediction in answer["predictions"]}
    return np.array([[scores[label] for label in labels]], dtype=np.float32)


def measure(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], classes: tuple[str, ...]
) -> Figures:
    """Count and average.

    Args:
        probabilities: f32 [N, K].
        labels: i64 [N].
        classes: K label texts.
    """
    given, true, count = torch.from_numpy(probabilities), torch.from_numpy(labels), len(classes)
    precision = multiclass_precision(given, true, count, average="none").tolist()
    recall = multiclass_recall(given, true, count, average="none").tolist()
    f1 = multiclass_f1_score(given, true, count, average="none").tolist()
    items = np.bincount(labels, minlength=count).tolist()
    return Figures(
        items=len(labels),
        accuracy=float(multiclass_accuracy(given, true, count, average="micro")),
        macro_f1=float(multiclass_f1_score(given, true, count, average="macro")),
        calibration_error=float(multiclass_calibration_error(given, true, count, n_bins=CALIBRATION_BINS)),
        per_class=tuple(
            ClassFigures(*row) for row in zip(classes, items, precision, recall, f1, strict=True)
        ),
        confusion=tuple(map(tuple, multiclass_confusion_matrix(given, true, count).tolist())),
    )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures of a held-out part.

    Attributes:
        plain: On the files as the data has them.
        redrawn: On the redrawn ones; None where there are none.
        slices: Accuracy on redrawn pictures that share a look, by name, with how many there are.
    """

    plain: Figures
    redrawn: Figures | None
    slices: dict[str, tuple[float, int]]


def evaluate(answers: Answers, pictures: HeldOut, classes: tuple[str, ...]) -> Evaluation:
    """Measure answers to held-out pictures."""
    plain = measure(answers.plain, pictures.labels, classes)
    if not pictures.redrawn:
        return Evaluation(plain, None, {})
    redrawn = measure(answers.redrawn, pictures.redrawn_labels, classes)
    right = answers.redrawn.argmax(axis=1) == pictures.redrawn_labels
    return Evaluation(plain, redrawn, accuracy_by_look(right, pictures.looks))


def accuracy_by_look(right: NDArray[np.bool_], looks: Sequence[Look]) -> dict[str, tuple[float, int]]:
    """Split accuracy by how pictures look: share right and count, by the look's name."""
    slices: dict[str, list[bool]] = {}
    for hit, look in zip(right.tolist(), looks, strict=True):
        for name in look.traits():
            slices.setdefault(name, []).append(hit)
    return {name: (sum(hits) / len(hits), len(hits)) for name, hits in sorted(slices.items())}
