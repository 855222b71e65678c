"""Golden images of a detector: small files whose objects are found with high scores."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from service.repository.manifest import GoldenCase
from training.core.golden import small_files
from training.detection.dataset import AnnotatedImage, decode_annotated
from training.detection.learner import DetectorLearner
from training.detection.metrics import THRESHOLD, matches
from training.detection.predict import Predicted, predict_with_checkpoint
from training.detection.reference_decoder import is_unambiguous
from training.errors import ExportFailed
from training.networks.detector import STRIDE

_GOLDEN = 6
_LARGEST_BYTES = 150_000
_SCORE_TOLERANCE = 0.02


def choose_golden_images(
    learner: DetectorLearner, files: Sequence[AnnotatedImage]
) -> list[tuple[AnnotatedImage, GoldenCase]]:
    """Choose small images of different looks that are answered rightly, and every second one as JPEG.

    Args:
        learner: The trained network.
        files: The validation part.

    Raises:
        ExportFailed: The network finds no object rightly.
    """
    published = [_as_jpeg(file) if i % 2 else file for i, file in enumerate(files)]
    small = small_files(published, lambda file: file.file, _LARGEST_BYTES)
    ranked = []
    for file, predicted in zip(small, predict_with_checkpoint(learner, small), strict=True):
        answered = predicted.scores >= THRESHOLD
        right = len(matches(file, predicted, answered))
        mistakes = int(answered.sum()) - right + len(file.labels) - right
        # A score near the threshold could be below it on another machine.
        doubtful = int((np.abs(predicted.scores - THRESHOLD) < 2 * _SCORE_TOLERANCE).sum())
        if right and not doubtful:
            ranked.append((mistakes, -right, file, predicted))
    ranked.sort(key=lambda row: row[:2])
    chosen: dict[tuple[str, ...], tuple[AnnotatedImage, Predicted]] = {}
    for _, _, file, predicted in ranked:
        kind = (*file.traits, Path(file.name).suffix)
        if kind in chosen or file.name in (other.name for other, _ in chosen.values()):
            continue
        pixels, _ = decode_annotated(file, learner.recipe.input)
        if is_unambiguous(learner.graph, pixels[None], STRIDE).all():
            chosen[kind] = file, predicted
    if not chosen:
        raise ExportFailed("the network finds nothing surely: train it first. Nothing was written")
    return [
        (
            file,
            GoldenCase(file=file.name, answer=_answer(predicted, learner.labels), tolerance=_SCORE_TOLERANCE),
        )
        for file, predicted in list(chosen.values())[:_GOLDEN]
    ]


def _as_jpeg(file: AnnotatedImage) -> AnnotatedImage:
    with Image.open(BytesIO(file.file)) as image:
        if image.format == "JPEG":
            return file
        saved = BytesIO()
        image.convert("RGB").save(saved, format="JPEG", quality=88)
    return replace(file, name=re.sub(r"\.\w+$", "", file.name) + ".jpg", file=saved.getvalue())


def _answer(predicted: Predicted, classes: tuple[str, ...]) -> dict[str, object]:
    """Return the client's answer for what PyTorch detected."""
    names = ("x_min", "y_min", "x_max", "y_max")
    rows = zip(
        predicted.boxes_xyxy.tolist(), predicted.scores.tolist(), predicted.labels.tolist(), strict=True
    )
    detections = [
        {
            "label": classes[label],
            "score": round(score, 4),
            "box": {name: round(edge, 2) for name, edge in zip(names, box, strict=True)},
        }
        for box, score, label in rows
        if score >= THRESHOLD
    ]
    return {"width": predicted.size[0], "height": predicted.size[1], "detections": detections}
