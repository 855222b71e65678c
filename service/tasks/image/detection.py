"""The task `object-detection`: images in, labelled boxes out.

The graph selects the detections itself; no non-maximum suppression follows. Its boxes are fractions of its
input, so the only geometry here is the inverse of the letterbox.

Array shapes: `N` batch, `M` slots for detections; empty slots have low scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic reads typing's own only from Python 3.12 on

from service.errors import ModelRejected
from service.repository.manifest import ImageInput, VersionFacts
from service.tasks.base64_file import decode_base64_file
from service.tasks.classification import read_labels
from service.tasks.image.preprocessing import decode_and_resize, letterbox
from service.tasks.task import Decoded, Limits, Outputs, Raw, Result, StatedSeconds

_MATCHING_IOU = 0.9  # two boxes of the same object, in a golden check
MIN_COMPARED_SCORE = 0.25  # half of the default threshold; slots with lower scores are not compared


class Box(TypedDict):
    """Edges in pixels of the image that was sent, after EXIF rotation."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float


class Detection(TypedDict):
    """One detected object: label, score (0-1) and box."""

    label: str
    score: float
    box: Box


_EXAMPLE: dict[str, JsonValue] = {
    "width": 423,
    "height": 383,
    "detections": [
        {"label": "7", "score": 0.94, "box": {"x_min": 360.8, "y_min": 262.2, "x_max": 396.8, "y_max": 313.2}}
    ],
}


@with_config(json_schema_extra={"example": _EXAMPLE})
class Detections(TypedDict):
    """The result of one image, highest score first; `width` and `height` are those of the image sent."""

    width: int
    height: int
    detections: list[Detection]


_DETECTIONS = TypeAdapter(Detections)


class DetectionParameters(BaseModel):
    """Parameters of object detection.

    Attributes:
        threshold: Detections with lower scores are left out.
        max_detections: Largest number of detections per image.
        format: JSON, or the image with the boxes drawn.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold: Annotated[float, Field(ge=0, le=1, description="Leave out detections with lower scores.")] = (
        0.5
    )
    max_detections: Annotated[int, Field(ge=1, description="Largest number of detections per image.")] = 100
    format: Annotated[
        Literal["json", "image"], Field(description="`image` returns the image with the boxes drawn.")
    ] = "json"


class ObjectDetection:
    """`object-detection` for one version."""

    name: ClassVar[str] = "object-detection"
    parameters: ClassVar[type[BaseModel]] = DetectionParameters
    media_type: ClassVar[str] = "image/*"
    inputs: ClassVar[Mapping[str, str]] = {"image": "uint8"}
    outputs: ClassVar[Mapping[str, str]] = {"boxes": "float32", "scores": "float32", "labels": "int64"}
    result: ClassVar[type] = Detections
    stated_seconds: ClassVar[StatedSeconds | None] = None

    def __init__(self, folder: Path, facts: VersionFacts) -> None:
        self.labels = read_labels(folder, facts)
        if not isinstance(facts.input, ImageInput) or facts.input.resize != "letterbox":
            raise ModelRejected(f"{self.name} needs an input of kind image with resize: letterbox")
        self._spec = facts.input
        self.quick_size = 0

    @staticmethod
    def from_json(value: object) -> Raw:
        """Return the bytes of a base64 file."""
        return decode_base64_file(value, "an image file")

    def decode(self, raw: Raw, limits: Limits, parameters: BaseModel, declared_type: str = "") -> Decoded:
        """Return `image` u8 [H, W, C] of one image file; the context holds the original size."""
        body = raw.encode() if isinstance(raw, str) else raw
        resized = decode_and_resize(
            body, self._spec, max_pixels=limits.max_pixels, declared_type=declared_type
        )
        width, height = resized.original_size
        return Decoded(({"image": resized.pixels},), (1,), {"width": width, "height": height})

    def answer(self, parts: Sequence[Outputs], decoded: Decoded, parameters: BaseModel) -> Result:
        """Return the detections above the threshold, in pixels of the image that was sent."""
        wanted = cast(DetectionParameters, parameters)
        (outputs,) = parts
        width, height = cast(int, decoded.context["width"]), cast(int, decoded.context["height"])
        best_first = np.argsort(-outputs["scores"], kind="stable")
        kept = [i for i in best_first if outputs["scores"][i] >= wanted.threshold]
        boxes = unletterbox(outputs["boxes"], (width, height), self._spec)
        found: list[Detection] = [
            {
                "label": self.labels[outputs["labels"][i]],
                "score": float(outputs["scores"][i]),
                "box": _box(boxes[i]),
            }
            for i in kept[: wanted.max_detections]
        ]
        return {"width": width, "height": height, "detections": found}

    def check_outputs(self, outputs: Outputs) -> None:
        """Check shapes, label numbers and the range of scores."""
        boxes, scores, labels = (outputs[name] for name in ("boxes", "scores", "labels"))
        if scores.ndim != 2 or labels.shape != scores.shape or boxes.shape != (*scores.shape, 4):
            raise ModelRejected(
                f"outputs boxes {list(boxes.shape)}, scores {list(scores.shape)} and "
                f"labels {list(labels.shape)} do not match"
            )
        if labels.size and not (labels.min() >= 0 and labels.max() < len(self.labels)):
            raise ModelRejected(
                f"output labels has numbers up to {labels.max()}; there are {len(self.labels)} labels"
            )
        if scores.size and not (scores.min() >= 0 and scores.max() <= 1):
            raise ModelRejected("output scores has numbers outside of 0 to 1")

    def differences(self, expected: Outputs, got: Outputs) -> dict[str, float]:
        """Compare detections matched by intersection over union; slots with low scores are ignored."""
        worst = {"boxes": 0.0, "scores": 0.0, "labels": 0.0}
        for row in range(len(expected["scores"])):
            before, after = ({k: v[row] for k, v in outputs.items()} for outputs in (expected, got))
            for i in np.flatnonzero(before["scores"] >= MIN_COMPARED_SCORE):
                ious = box_iou(before["boxes"][i], after["boxes"])
                ious[after["labels"] != before["labels"][i]] = 0.0
                j = int(ious.argmax())
                if not ious[j] >= _MATCHING_IOU:
                    return dict.fromkeys(worst, float("inf"))
                box, score = (np.abs(after[k][j] - before[k][i]).max() for k in ("boxes", "scores"))
                worst["boxes"] = float(np.maximum(worst["boxes"], box))  # unlike max, keeps a NaN
                worst["scores"] = float(np.maximum(worst["scores"], score))
            # The loop above does not see additional detections. A score near the default threshold may be on
            # either side of it.
            counts = [int((side["scores"] >= 2 * MIN_COMPARED_SCORE).sum()) for side in (before, after)]
            if abs(counts[0] - counts[1]) > int(
                (np.abs(before["scores"] - 2 * MIN_COMPARED_SCORE) < 0.01).sum()
            ):
                return dict.fromkeys(worst, float("inf"))
        return worst

    def agrees(self, expected: Result, got: Result, tolerance: float) -> str | None:
        """Match every expected detection with one of the same label, nearly the same box and score."""
        try:
            wanted = _DETECTIONS.validate_python(expected)
        except ValidationError as error:
            return f"the expected answer is not a list of detections: {error.errors()[0]['msg']}"
        found = cast(Detections, got)
        if (wanted["width"], wanted["height"]) != (found["width"], found["height"]):
            return f"the image is {found['width']} x {found['height']} pixels"
        if len(wanted["detections"]) != len(found["detections"]):
            return f"{len(found['detections'])} detections, expected {len(wanted['detections'])}"
        for detection in wanted["detections"]:
            candidates = [d for d in found["detections"] if d["label"] == detection["label"]]
            boxes = np.array([_edges(d["box"]) for d in candidates]).reshape(-1, 4)
            ious = box_iou(_edges(detection["box"]), boxes)
            if not candidates or not ious.max() >= _MATCHING_IOU:
                return f"no {detection['label']!r} at {detection['box']}"
            score = candidates[int(ious.argmax())]["score"]
            if not abs(score - detection["score"]) <= tolerance:
                return f"{detection['label']!r} has score {score:.4f}, expected {detection['score']:.4f}"
        return None


def unletterbox(
    boxes_xyxy: NDArray[np.float32], size: tuple[int, int], spec: ImageInput
) -> NDArray[np.float64]:
    """Return boxes in pixels of the original image: the exact inverse of the letterbox.

    Args:
        boxes_xyxy: f32 [M, 4], fractions 0-1 of the graph's input.
        size: Width and height of the original image.
        spec: The graph's input.

    Returns:
        f64 [M, 4] in pixels, clipped to the image.
    """
    left, top, width, height = letterbox(size, spec)
    scale = np.array([spec.width, spec.height] * 2, dtype=np.float64)
    margin = np.array([left, top] * 2)
    stretch = np.array([size[0] / width, size[1] / height] * 2)
    edges = (boxes_xyxy.astype(np.float64) * scale - margin) * stretch
    clipped: NDArray[np.float64] = edges.clip(0, [size[0], size[1]] * 2)
    return clipped


def box_iou(box_xyxy: NDArray[np.floating], boxes_xyxy: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the intersection over union of one box [4] with each of many [M, 4]; f64 [M]."""
    corner = np.maximum(box_xyxy[:2], boxes_xyxy[:, :2])
    sides = (np.minimum(box_xyxy[2:], boxes_xyxy[:, 2:]) - corner).clip(0)
    intersection = sides.prod(axis=1).astype(np.float64)
    area = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(axis=1) + (box_xyxy[2:] - box_xyxy[:2]).prod()
    ratio: NDArray[np.float64] = intersection / np.maximum(area - intersection, 1e-12)
    return ratio


def _box(edges: NDArray[np.float64]) -> Box:
    x_min, y_min, x_max, y_max = (round(float(edge), 2) for edge in edges)
    return {"x_min": x_min, "y_min": y_min, "x_max": x_max, "y_max": y_max}


def _edges(box: Box) -> NDArray[np.float64]:
    return np.array([box["x_min"], box["y_min"], box["x_max"], box["y_max"]], dtype=np.float64)
