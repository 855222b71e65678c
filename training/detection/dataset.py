"""Annotated images, and training arrays made from them: pixels of one size, padded boxes.

Letters in shapes: `N` images, `H` `W` the graph's size, `G` maximum number of objects per image, `M` objects
of one image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.repository.manifest import ImageInput
from service.tasks import Limits
from service.tasks.image.preprocessing import decode_and_resize, letterbox

_SMALLEST_SIDE = 1.0  # input pixels; smaller boxes are left out


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """A raw file and its objects.

    Attributes:
        name: Name for messages and files.
        file: The raw bytes.
        boxes_xyxy: f64 [M, 4], edges in pixels of the upright image.
        labels: i64 [M], indices into the classes.
        traits: Properties as `group: value`, for metrics by trait.
    """

    name: str
    file: bytes
    boxes_xyxy: NDArray[np.float64]
    labels: NDArray[np.int64]
    traits: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Images of one size with their boxes.

    Attributes:
        images: u8 [N, H, W, 3]; may be a memory-mapped file.
        boxes_xyxy: f32 [N, G, 4], edges in pixels of `images`.
        labels: i64 [N, G]; -1 is padding.
    """

    images: NDArray[np.uint8]
    boxes_xyxy: NDArray[np.float32]
    labels: NDArray[np.int64]


class DetectionSource(Protocol):
    """A source of annotated images.

    Attributes:
        classes: The label texts.
        description: What the data are, for provenance and card.
        split: How the test part was chosen, for the metrics.
        mirror: Whether a mirrored image still shows the same objects.
    """

    classes: tuple[str, ...]
    description: str
    split: str
    mirror: bool

    def training_set(self) -> TrainingSet:
        """Return the training part."""

    def validation_files(self) -> Sequence[AnnotatedImage]:
        """Return the validation part, from which golden files are published."""

    def held_out_files(self) -> Sequence[AnnotatedImage]:
        """Return the test part."""


def letterbox_boxes(
    boxes_xyxy: NDArray[np.float64], size: tuple[int, int], spec: ImageInput
) -> NDArray[np.float32]:
    """Transform boxes as the letterbox transforms the image: the inverse of the service's `unletterbox`.

    Args:
        boxes_xyxy: f64 [M, 4] in pixels of the image.
        size: Width and height of the image.
        spec: The graph's input.

    Returns:
        f32 [M, 4] in pixels of the input.
    """
    left, top, width, height = letterbox(size, spec)
    scale = np.array([width / size[0], height / size[1]] * 2)
    moved = boxes_xyxy * scale + np.array([left, top] * 2)
    return moved.astype(np.float32)  # type: ignore[no-any-return]


def decode_annotated(file: AnnotatedImage, spec: ImageInput) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Decode a file as the service does; return u8 [H, W, 3], and its boxes f32 [M, 4]."""
    resized = decode_and_resize(file.file, spec, max_pixels=Limits().max_pixels)
    return resized.pixels, letterbox_boxes(file.boxes_xyxy, resized.original_size, spec)


def decode_training_set(files: Iterable[AnnotatedImage], spec: ImageInput) -> TrainingSet:
    """Decode files one after another."""
    rows = [(*decode_annotated(file, spec), file.labels) for file in files]
    pictures, boxes, labels = zip(*rows, strict=True)
    return pad_boxes(np.stack(pictures), boxes, labels)


def pad_boxes(
    images: NDArray[np.uint8],
    boxes: Iterable[NDArray[np.float32]],
    labels: Iterable[NDArray[np.int64]],
) -> TrainingSet:
    """Return boxes and labels as padded arrays, without boxes that are too small to be seen."""
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
    return TrainingSet(images, all_boxes, all_labels)
