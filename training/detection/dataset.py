"""Picture files with known boxes, and what becomes of them for learning: pixels of one size, padded boxes.

Letters in shapes: `N` pictures, `H` `W` the graph's size, `G` things in a picture at most, `M` in this one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.repository.manifest import ImageInput
from service.tasks import Limits
from service.tasks.image.preprocessing import fit_picture, letterbox

_SMALLEST_SIDE = 1.0  # input pixels; what is smaller after scaling is no thing to learn


@dataclass(frozen=True, slots=True)
class AnnotatedFile:
    """A raw file and what is in it.

    Attributes:
        name: To tell it by.
        file: The bytes.
        boxes_xyxy: f64 [M, 4], edges in pixels of the upright picture.
        labels: i64 [M], indices into the classes.
        traits: What is notable about it, for figures by trait, as `group: value`.
    """

    name: str
    file: bytes
    boxes_xyxy: NDArray[np.float64]
    labels: NDArray[np.int64]
    traits: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class LearningSet:
    """Pictures to learn from or to stop by, all of one size.

    Attributes:
        images: u8 [N, H, W, 3]; may be a file mapped into memory.
        boxes_xyxy: f32 [N, G, 4], edges in pixels of `images`.
        labels: i64 [N, G]; -1 where there is nothing.
    """

    images: NDArray[np.uint8]
    boxes_xyxy: NDArray[np.float32]
    labels: NDArray[np.int64]


class DetectionSource(Protocol):
    """Pictures with boxes.

    Attributes:
        classes: The label texts.
        description: What the data is, for provenance and card.
        split: How the held-out part was chosen, for the metrics.
        mirror: Whether a mirrored picture still shows the same things.
    """

    classes: tuple[str, ...]
    description: str
    split: str
    mirror: bool

    def training_set(self) -> LearningSet:
        """Give what is learnt from."""

    def validation_files(self) -> Sequence[AnnotatedFile]:
        """Give what training is stopped by, and what may be published with the model."""

    def held_out_files(self) -> Sequence[AnnotatedFile]:
        """Give the test part."""


def letterboxed(
    boxes_xyxy: NDArray[np.float64], size: tuple[int, int], spec: ImageInput
) -> NDArray[np.float32]:
    """Move boxes as the letterbox moves the picture: the inverse of the service's `unletterbox`.

    Args:
        boxes_xyxy: f64 [M, 4] in pixels of the picture.
        size: Width and height of the picture.
        spec: Of the graph's input.

    Returns:
        f32 [M, 4] in pixels of the input.
    """
    left, top, width, height = letterbox(size, spec)
    scale = np.array([width / size[0], height / size[1]] * 2)
    moved = boxes_xyxy * scale + np.array([left, top] * 2)
    return moved.astype(np.float32)  # type: ignore[no-any-return]


def decoded(file: AnnotatedFile, spec: ImageInput) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Decode a file exactly as the service does: u8 [H, W, 3], and its boxes f32 [M, 4]."""
    fitted = fit_picture(file.file, spec, max_pixels=Limits().max_pixels)
    return fitted.pixels, letterboxed(file.boxes_xyxy, fitted.size, spec)


def learning_set(files: Iterable[AnnotatedFile], spec: ImageInput) -> LearningSet:
    """Decode files for learning, one after another."""
    rows = [(*decoded(file, spec), file.labels) for file in files]
    pictures, boxes, labels = zip(*rows, strict=True)
    return padded(np.stack(pictures), boxes, labels)


def padded(
    images: NDArray[np.uint8],
    boxes: Iterable[NDArray[np.float32]],
    labels: Iterable[NDArray[np.int64]],
) -> LearningSet:
    """Put boxes of any number into arrays of one size, without those too small to be seen."""
    kept = []
    for edges, names in zip(boxes, labels, strict=True):
        large = (edges[:, 2:] - edges[:, :2] >= _SMALLEST_SIDE).all(axis=1)
        kept.append((edges[large], names[large]))
    most = max(1, *(len(names) for _, names in kept)) if kept else 1
    all_boxes = np.zeros((len(kept), most, 4), np.float32)
    all_labels = np.full((len(kept), most), -1, np.int64)
    for row, (edges, names) in enumerate(kept):
        all_boxes[row, : len(names)] = edges
        all_labels[row, : len(names)] = names
    return LearningSet(images, all_boxes, all_labels)
