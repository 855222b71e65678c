"""Classify held-out raw files: with PyTorch, or with an exported version as a client gets the answer.

Every image starts as a file and is decoded by `service.tasks`.

Letters in shapes: `N` images, `H` `W` size, `C` channels, `K` classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from service.repository.manifest import VersionFacts
from service.tasks.classification import Classification, ClassificationParameters
from service.tasks.image.classification import ImageClassification
from training.core.session import answer_batches, open_version
from training.data.split import Indices
from training.images.learner import ImageLearner
from training.images.redraw import DigitLook
from training.images.source import ImageSource, decode_files

TEST_SEED = 2_000_003  # seed of the redrawn test images
_BATCH = 64


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Raw files that were not trained on.

    Attributes:
        files: The files of the data.
        labels: i64, one per file.
        redrawn: Files redrawn as people send them; may be empty.
        looks: One per redrawn file.
        redrawn_labels: i64, one per redrawn file.
    """

    files: list[bytes]
    labels: NDArray[np.int64]
    redrawn: list[bytes]
    looks: list[DigitLook]
    redrawn_labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Predictions:
    """Probabilities f32 [N, K] for the files of a `HeldOut` and for its redrawn files."""

    plain: NDArray[np.float32]
    redrawn: NDArray[np.float32]


def held_out(source: ImageSource, indices: Indices, seed: int = TEST_SEED) -> HeldOut:
    """Return the raw files of some images, as they are and redrawn."""
    redrawings = source.redrawn(indices, seed)
    return HeldOut(
        source.files(indices),
        source.labels[indices],
        [redrawing.file for redrawing in redrawings],
        [redrawing.look for redrawing in redrawings],
        np.repeat(source.labels[indices], source.redrawings if redrawings else 0),
    )


def predict_with_checkpoint(learner: ImageLearner, images: HeldOut) -> Predictions:
    """Classify files with PyTorch."""
    return _predict(
        images,
        len(learner.labels),
        lambda files: probabilities_of(learner, decode_files(files, learner.recipe.input)),
    )


def probabilities_of(learner: ImageLearner, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Classify u8 [N, H, W, C] with PyTorch; return f32 [N, K]."""
    learner.eval()
    with torch.inference_mode():
        batches = [
            learner.graph(torch.from_numpy(images[i : i + _BATCH])) for i in range(0, len(images), _BATCH)
        ]
        return cast(NDArray[np.float32], torch.cat(batches).numpy())


def predict_with_version(folder: Path, images: HeldOut, facts: VersionFacts | None = None) -> Predictions:
    """Classify files with an exported version, from raw file to the client's answer.

    Args:
        folder: The version's folder.
        images: The files.
        facts: The version's facts; None reads them from the folder.
    """
    task, run = open_version(folder, ImageClassification, facts)
    every_label = ClassificationParameters(top_k=len(task.labels))

    def classify(files: Sequence[bytes]) -> NDArray[np.float32]:
        answers = answer_batches(task, run, files, every_label, _BATCH)
        return np.array([_row(cast(Classification, answer), task.labels) for answer in answers], np.float32)

    return _predict(images, len(task.labels), classify)


def _predict(
    images: HeldOut, classes: int, classify: Callable[[Sequence[bytes]], NDArray[np.float32]]
) -> Predictions:
    nothing = np.zeros((0, classes), np.float32)
    return Predictions(classify(images.files), classify(images.redrawn) if images.redrawn else nothing)


def _row(answer: Classification, labels: tuple[str, ...]) -> list[float]:
    scores = {prediction["label"]: prediction["score"] for prediction in answer["predictions"]}
    return [scores[label] for label in labels]
