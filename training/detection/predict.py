"""What a detector finds in picture files: by PyTorch, or by an exported version as a client gets it.

Letters in shapes: `N` pictures, `M` detections of one picture, `H` `W` the graph's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from service.repository.manifest import VERSION_FILE, VersionFacts, read
from service.tasks import Limits
from service.tasks.image.detection import DetectionParameters, Detections, ObjectDetection, unletterbox
from service.tasks.image.preprocessing import fit_picture
from training.core.session import open_graph
from training.detection.dataset import AnnotatedFile
from training.detection.learner import DetectorLearner

LEAST_SCORE = 0.01  # detections below are not counted in any figure
_BATCH = 8


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in one picture, surest first.

    Attributes:
        boxes_xyxy: f64 [M, 4], edges in pixels of the picture.
        scores: f64 [M], 0–1.
        labels: i64 [M], indices into the classes.
        size: Width and height of the picture.
    """

    boxes_xyxy: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    size: tuple[int, int]


def answers_of_checkpoint(learner: DetectorLearner, files: Sequence[AnnotatedFile]) -> list[Found]:
    """Find things with PyTorch."""
    spec = learner.recipe.input
    learner.eval()
    found = []
    for start in range(0, len(files), _BATCH):
        pictures = [
            fit_picture(file.file, spec, max_pixels=Limits().max_pixels)
            for file in files[start : start + _BATCH]
        ]
        images = np.stack([picture.pixels for picture in pictures])
        with torch.inference_mode():
            outputs = [output.numpy() for output in learner.graph(torch.from_numpy(images))]
        for picture, boxes, scores, labels in zip(pictures, *outputs, strict=True):
            kept = scores >= LEAST_SCORE
            edges = unletterbox(boxes[kept], picture.size, spec)
            found.append(Found(edges, scores[kept].astype(np.float64), labels[kept], picture.size))
    return found


def answers_of_version(
    folder: Path, files: Sequence[AnnotatedFile], facts: VersionFacts | None = None
) -> list[Found]:
    """Find things with an exported version, from raw file to the client's answer.

    Args:
        folder: The version's folder.
        files: What to answer.
        facts: The version's facts; None reads them from the folder.
    """
    facts = facts or read(folder / VERSION_FILE, VersionFacts)
    task = ObjectDetection(folder, facts)
    session = open_graph(folder, facts)
    everything = DetectionParameters(threshold=LEAST_SCORE, max_detections=1_000)
    found = []
    for start in range(0, len(files), _BATCH):
        decoded = [task.decode(file.file, Limits(), everything) for file in files[start : start + _BATCH]]
        outputs = session.run({"image": np.stack([item.parts[0]["image"] for item in decoded])})
        for i, item in enumerate(decoded):
            row = {name: array[i] for name, array in outputs.items()}
            found.append(_found(cast(Detections, task.answer([row], item, everything)), task.labels))
    return found


def _found(answer: Detections, classes: tuple[str, ...]) -> Found:
    detections = answer["detections"]
    boxes = [[d["box"][edge] for edge in ("x_min", "y_min", "x_max", "y_max")] for d in detections]
    return Found(
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array([d["score"] for d in detections], dtype=np.float64),
        np.array([classes.index(d["label"]) for d in detections], dtype=np.int64),
        (answer["width"], answer["height"]),
    )
