"""Metrics of the image classifier on held-out files.

Letters in shapes: `N` images, `K` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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

from training.images.predict import HeldOut, Predictions
from training.images.redraw import DigitLook

CALIBRATION_BINS = 15


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """One row of the table of classes."""

    label: str
    items: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class Metrics:
    """Metrics on a set of files.

    Attributes:
        accuracy: Share of images whose best label is right.
        macro_f1: Mean of the classes' F1.
        calibration_error: Expected calibration error (Guo et al. 2017, arXiv:1706.04599, equation 3):
            mean distance of confidence and accuracy over 15 bins of confidence.
        confusion: Counts, by true class, then by predicted class.
    """

    items: int
    accuracy: float
    macro_f1: float
    calibration_error: float
    per_class: tuple[ClassMetrics, ...]
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class ImageMetrics:
    """Metrics on the test part.

    Attributes:
        plain: On the files of the data.
        redrawn: On redrawn files; None if there are none.
        slices: Accuracy and count of redrawn images that share a look, by its name.
    """

    plain: Metrics
    redrawn: Metrics | None
    slices: dict[str, tuple[float, int]]


@dataclass(frozen=True, slots=True)
class ImageEvaluation:
    """Metrics, and the predictions that were measured."""

    metrics: ImageMetrics
    predictions: Predictions


def measure(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], classes: tuple[str, ...]
) -> Metrics:
    """Measure probabilities.

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
    return Metrics(
        items=len(labels),
        accuracy=float(multiclass_accuracy(given, true, count, average="micro")),
        macro_f1=float(multiclass_f1_score(given, true, count, average="macro")),
        calibration_error=float(multiclass_calibration_error(given, true, count, n_bins=CALIBRATION_BINS)),
        per_class=tuple(
            ClassMetrics(*row) for row in zip(classes, items, precision, recall, f1, strict=True)
        ),
        confusion=tuple(map(tuple, multiclass_confusion_matrix(given, true, count).tolist())),
    )


def evaluate(predictions: Predictions, images: HeldOut, classes: tuple[str, ...]) -> ImageEvaluation:
    """Measure predictions for held-out images."""
    plain = measure(predictions.plain, images.labels, classes)
    if not images.redrawn:
        return ImageEvaluation(ImageMetrics(plain, None, {}), predictions)
    redrawn = measure(predictions.redrawn, images.redrawn_labels, classes)
    right = predictions.redrawn.argmax(axis=1) == images.redrawn_labels
    return ImageEvaluation(ImageMetrics(plain, redrawn, accuracy_by_look(right, images.looks)), predictions)


def accuracy_by_look(right: NDArray[np.bool_], looks: Sequence[DigitLook]) -> dict[str, tuple[float, int]]:
    """Return accuracy and count of the images with each look, by the look's name."""
    slices: dict[str, list[bool]] = {}
    for hit, look in zip(right.tolist(), looks, strict=True):
        for name in look.traits():
            slices.setdefault(name, []).append(hit)
    return {name: (sum(hits) / len(hits), len(hits)) for name, hits in sorted(slices.items())}
