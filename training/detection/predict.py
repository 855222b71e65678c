"""Detect objects in image files: with PyTorch, or with an exported version as a client gets the answer.

Letters in shapes: `N` images, `M` detections of one image, `H` `W` the graph's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from service.repository.manifest import VersionFacts
from service.tasks import Limits
from service.tasks.image.detection import DetectionParameters, Detections, ObjectDetection, unletterbox
from service.tasks.image.preprocessing import decode_and_resize
from training.core.session import answer_batches, open_version
from training.detection.dataset import AnnotatedImage
from training.detection.learner import DetectorLearner

LEAST_SCORE = 0.01  # detections with a lower score are not measured
_BATCH = 8


@dataclass(frozen=True, slots=True)
class Predicted:
    """The detections in one image, by falling score.

    Attributes:
        boxes_xyxy: f64 [M, 4], edges in pixels of the image.
        scores: f64 [M], 0–1.
        labels: i64 [M], indices into the classes.
        size: Width and height of the image.
    """

    boxes_xyxy: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    size: tuple[int, int]


def predict_with_checkpoint(learner: DetectorLearner, files: Sequence[AnnotatedImage]) -> list[Predicted]:
    """Detect objects with PyTorch."""
    spec = learner.recipe.input
    learner.eval()
    predicted = []
    for start in range(0, len(files), _BATCH):
        pictures = [
            decode_and_resize(file.file, spec, max_pixels=Limits().max_pixels)
            for file in files[start : start + _BATCH]
        ]
        images = np.stack([picture.pixels for picture in pictures])
        with torch.inference_mode():
            outputs = [output.numpy() for output in learner.graph(torch.from_numpy(images))]
        for picture, boxes, scores, labels in zip(pictures, *outputs, strict=True):
            kept = scores >= LEAST_SCORE
            edges = unletterbox(boxes[kept], picture.original_size, spec)
            predicted.append(
                Predicted(edges, scores[kept].astype(np.float64), labels[kept], picture.original_size)
            )
    return predicted


def predict_with_version(
    folder: Path, files: Sequence[AnnotatedImage], facts: VersionFacts | None = None
) -> list[Predicted]:
    """Detect objects with an exported version, from raw file to the client's answer.

    Args:
        folder: The version's folder.
        files: The images.
        facts: The version's facts; None reads them from the folder.
    """
    task, run = open_version(folder, ObjectDetection, facts)
    everything = DetectionParameters(threshold=LEAST_SCORE, max_detections=1_000)
    answers = answer_batches(task, run, [file.file for file in files], everything, _BATCH)
    return [_predicted(cast(Detections, answer), task.labels) for answer in answers]


def _predicted(answer: Detections, classes: tuple[str, ...]) -> Predicted:
    detections = answer["detections"]
    boxes = [[d["box"][edge] for edge in ("x_min", "y_min", "x_max", "y_max")] for d in detections]
    return Predicted(
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array([d["score"] for d in detections], dtype=np.float64),
        np.array([classes.index(d["label"]) for d in detections], dtype=np.int64),
        (answer["width"], answer["height"]),
    )
