"""Metrics of detections: average precision as COCO defines it, by faster-coco-eval, with slices.

Average precision is the mean over ten overlaps, 0.50 to 0.95, unless its name has an overlap.

Letters in shapes: `T` overlaps, `R` recalls, `K` classes, `A` ranges of size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from service.tasks.image.detection import box_iou
from training.detection.dataset import AnnotatedImage
from training.detection.predict import Predicted

THRESHOLD = 0.5  # the task's default
MATCHING = 0.5  # least overlap of a right detection
_SIZES = {
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}  # COCO's sizes, as areas
_HEIGHTS = {"below 24 px": (0.0, 24.0), "24 to 47 px": (24.0, 48.0), "48 px and more": (48.0, 1e10)}
_AP50, _AP75 = 0, 5  # indices of the overlaps 0.50 and 0.75
_MOST = 100  # detections per image, COCO's limit

Pictures = Sequence[tuple[AnnotatedImage, Predicted]]


@dataclass(frozen=True, slots=True)
class Slice:
    """Average precision of some objects; None if there are none."""

    things: int
    ap: float | None
    ap50: float | None


@dataclass(frozen=True, slots=True)
class DetectionMetrics:
    """Metrics of detections.

    Attributes:
        precision: Share of the detections at the default threshold that are right.
        recall: Share of the objects that are detected rightly at the default threshold.
        sizes: By COCO's sizes, areas in pixels of the image.
        heights: By height of the box in pixels of the image.
        traits: By trait of the images.
        classes: By label.
    """

    pictures: int
    things: int
    ap: float
    ap50: float
    ap75: float
    precision: float
    recall: float
    sizes: dict[str, Slice]
    heights: dict[str, Slice]
    traits: dict[str, Slice]
    classes: dict[str, Slice]


def measure(pictures: Pictures, classes: tuple[str, ...]) -> DetectionMetrics:
    """Compare detections with annotations."""
    by_area = _Precisions(pictures, len(classes), _SIZES, "area")
    by_height = _Precisions(pictures, len(classes), _HEIGHTS, "height")
    traits = sorted({trait for file, _ in pictures for trait in file.traits})
    right, answered, things = 0, 0, 0
    for file, found in pictures:
        sure = found.scores >= THRESHOLD
        right += len(matches(file, found, sure))
        answered += int(sure.sum())
        things += len(file.labels)
    counts = np.bincount(np.concatenate([file.labels for file, _ in pictures]), minlength=len(classes))
    return DetectionMetrics(
        pictures=len(pictures),
        things=things,
        ap=by_area.mean() or 0.0,
        ap50=by_area.mean(overlap=_AP50) or 0.0,
        ap75=by_area.mean(overlap=_AP75) or 0.0,
        precision=right / answered if answered else 0.0,
        recall=right / things if things else 0.0,
        sizes={name: by_area.slice(name) for name in _SIZES},
        heights={name: by_height.slice(name) for name in _HEIGHTS},
        traits={trait: _slice_of_trait(pictures, len(classes), trait) for trait in traits},
        classes={
            label: Slice(int(counts[i]), by_area.mean(label=i), by_area.mean(overlap=_AP50, label=i))
            for i, label in enumerate(classes)
        },
    )


def matches(file: AnnotatedImage, found: Predicted, considered: NDArray[np.bool_]) -> dict[int, int]:
    """Match detections to objects by falling score, each object once; return object by detection index."""
    free = set(range(len(file.labels)))
    matched: dict[int, int] = {}
    for i in np.flatnonzero(considered).tolist():
        overlaps = box_iou(found.boxes_xyxy[i], file.boxes_xyxy)
        rivals = [j for j in free if file.labels[j] == found.labels[i] and overlaps[j] >= MATCHING]
        if rivals:
            matched[i] = max(rivals, key=lambda j: float(overlaps[j]))
            free.remove(matched[i])
    return matched


def _slice_of_trait(pictures: Pictures, classes: int, trait: str) -> Slice:
    chosen = [(file, found) for file, found in pictures if trait in file.traits]
    precisions = _Precisions(chosen, classes, {}, "area")
    things = sum(len(file.labels) for file, _ in chosen)
    return Slice(things, precisions.mean(), precisions.mean(overlap=_AP50))


class _Precisions:
    """COCO's table of precisions.

    Args:
        pictures: Annotations and detections.
        classes: Number of labels.
        ranges: Limits of each slice.
        measure: What the limits are of: a box's `area` or its `height`.
    """

    def __init__(
        self, pictures: Pictures, classes: int, ranges: dict[str, tuple[float, float]], measure: str
    ) -> None:
        self._names = ["all", *ranges]
        truth, given = COCO(), COCO()
        images = [{"id": i + 1} for i in range(len(pictures))]
        categories = [{"id": k + 1, "name": str(k)} for k in range(classes)]
        there: list[dict[str, Any]] = []
        answered: list[dict[str, Any]] = []
        for i, (file, found) in enumerate(pictures, start=1):
            there += _annotations(i, file.boxes_xyxy, file.labels, None, measure)
            answered += _annotations(i, found.boxes_xyxy, found.labels, found.scores, measure)
        for coco, rows in ((truth, there), (given, answered)):
            numbered = [{**row, "id": n} for n, row in enumerate(rows, start=1)]
            coco.dataset = {"images": images, "categories": categories, "annotations": numbered}
            coco.createIndex()
        self._measures = np.array([annotation["area"] for annotation in there])
        self._ranges = ranges
        evaluation = COCOeval_faster(truth, given, iouType="bbox")
        evaluation.params.maxDets = [_MOST]
        # COCO's ranges include both ends: a box of exactly 24 pixels would be in two.
        inside = [[low, float(np.nextafter(high, 0))] for low, high in ranges.values()]
        evaluation.params.areaRng = [[0.0, 1e10], *inside]
        evaluation.params.areaRngLbl = self._names
        evaluation.evaluate()
        evaluation.accumulate()
        self._table: NDArray[np.float64] = np.asarray(evaluation.eval["precision"])[..., 0]  # [T, R, K, A]

    def mean(
        self, *, overlap: int | None = None, label: int | None = None, name: str = "all"
    ) -> float | None:
        """Return the mean of the known values; -1 in the table is unknown."""
        table = self._table[:, :, :, self._names.index(name)]
        table = table if overlap is None else table[overlap : overlap + 1]
        table = table if label is None else table[:, :, label]
        known = table[table > -1]
        return float(known.mean()) if known.size else None

    def slice(self, name: str) -> Slice:
        """Return the metrics of a range."""
        low, high = self._ranges[name]
        things = int(((self._measures >= low) & (self._measures < high)).sum())
        return Slice(things, self.mean(name=name), self.mean(overlap=_AP50, name=name))


def _annotations(
    picture: int,
    boxes_xyxy: NDArray[np.float64],
    labels: NDArray[np.int64],
    scores: NDArray[np.float64] | None,
    measure: str,
) -> list[dict[str, Any]]:
    """Return boxes in COCO's format; `area` holds the value that slices are defined by."""
    rows = []
    for i, (left, top, right, bottom) in enumerate(boxes_xyxy.tolist()):
        width, height = right - left, bottom - top
        row = {
            "image_id": picture,
            "category_id": int(labels[i]) + 1,
            "bbox": [left, top, width, height],
            "area": height if measure == "height" else width * height,
            "iscrowd": 0,
        }
        rows.append(row if scores is None else {**row, "score": float(scores[i])})
    return rows
