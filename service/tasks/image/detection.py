"""Pictures -> boxes: the letterbox before the graph, its exact inverse after it.

The graph picks its own peaks, so its outputs are final up to geometry: boxes in shares of its input.

Letters in shapes: `N` batch, `M` slots for detections, many of them empty.
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
from service.tasks.classification import read_labels
from service.tasks.image.preprocessing import fit_picture, letterbox, read_base64
from service.tasks.task import Decoded, Limits, Outputs, Raw, Result, StatedSeconds

_MATCHING_OVERLAP = 0.9  # boxes of the same thing, in a golden check
COUNTED_SCORE = 0.25  # slots below hold nothing worth comparing: half of what is answered by default


class Box(TypedDict):
    """Edges in pixels of the picture that was sent, after EXIF rotation."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float


class Detection(TypedDict):
    """One thing found: its label, how sure the model is (0-1), and where."""

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
    """The result of one picture, surest first; `width` and `height` are of the picture that was sent."""

    width: int
    height: int
    detections: list[Detection]


_DETECTIONS = TypeAdapter(Detections)


class DetectionParameters(BaseModel):
    """Parameters of object detection.

    Attributes:
        threshold: Leave out what the model is less sure of.
        max_detections: Most boxes of one picture.
        format: The answer as JSON, or the picture with the boxes drawn.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold: Annotated[float, Field(ge=0, le=1, description="Leave out lower scores.")] = 0.5
    max_detections: Annotated[int, Field(ge=1, description="Most boxes of one picture.")] = 100
    format: Annotated[
        Literal["json", "image"], Field(description="`image` gives the picture with its boxes drawn.")
    ] = "json"


class ObjectDetection:
    """`object-detection` for one version: pictures in, labelled boxes out."""

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
        """Decode one base64 file, with or without a `data:` prefix."""
        return read_base64(value)

    def decode(self, raw: Raw, limits: Limits, parameters: BaseModel, declared_type: str = "") -> Decoded:
        """Decode one picture to `image` u8 [H, W, C]; the context keeps its size."""
        body = raw.encode() if isinstance(raw, str) else raw
        fitted = fit_picture(body, self._spec, max_pixels=limits.max_pixels, declared_type=declared_type)
        width, height = fitted.size
        return Decoded(({"image": fitted.pixels},), (1,), {"width": width, "height": height})

    def answer(self, parts: Sequence[Outputs], decoded: Decoded, parameters: BaseModel) -> Result:
        """Keep what is sure enough and bring its boxes back to the picture that was sent."""
        wanted = cast(DetectionParameters, parameters)
        (outputs,) = parts
        width, height = cast(int, decoded.context["width"]), cast(int, decoded.context["height"])
        surest_first = np.argsort(-outputs["scores"], kind="stable")
        kept = [i for i in surest_first if outputs["scores"][i] >= wanted.threshold]
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
        """Check that slots, labels and scores fit each other."""
        boxes, scores, labels = (outputs[name] for name in ("boxes", "scores", "labels"))
        if scores.ndim != 2 or labels.shape != scores.shape or boxes.shape != (*scores.shape, 4):
            raise ModelRejected(
                f"outputs boxes {list(boxes.shape)}, scores {list(scores.shape)} and "
                f"labels {list(labels.shape)} do not fit each other"
            )
        if labels.size and not (labels.min() >= 0 and labels.max() < len(self.labels)):
            raise ModelRejected(f"output labels reaches {labels.max()}; there are {len(self.labels)} labels")
        if scores.size and not (scores.min() >= 0 and scores.max() <= 1):
            raise ModelRejected("output scores leaves 0 to 1")

    def differences(self, expected: Outputs, got: Outputs) -> dict[str, float]:
        """Compare detections matched by overlap; slots that hold next to nothing are ignored."""
        worst = {"boxes": 0.0, "scores": 0.0, "labels": 0.0}
        for row in range(len(expected["scores"])):
            before, after = ({k: v[row] for k, v in outputs.items()} for outputs in (expected, got))
            for i in np.flatnonzero(before["scores"] >= COUNTED_SCORE):
                overlaps = overlap(before["boxes"][i], after["boxes"])
                overlaps[after["labels"] != before["labels"][i]] = 0.0
                j = int(overlaps.argmax())
                if not overlaps[j] >= _MATCHING_OVERLAP:
                    return dict.fromkeys(worst, float("inf"))
                box, score = (np.abs(after[k][j] - before[k][i]).max() for k in ("boxes", "scores"))
                worst["boxes"] = float(np.maximum(worst["boxes"], box))  # unlike max, keeps a NaN
                worst["scores"] = float(np.maximum(worst["scores"], score))
            # One too many is not matched above; a score right at the line may lie on either side of it.
            counts = [int((side["scores"] >= 2 * COUNTED_SCORE).sum()) for side in (before, after)]
            if abs(counts[0] - counts[1]) > int((np.abs(before["scores"] - 2 * COUNTED_SCORE) < 0.01).sum()):
                return dict.fromkeys(worst, float("inf"))
        return worst

    def agrees(self, expected: Result, got: Result, tolerance: float) -> str | None:
        """Match every expected detection to one of the same label that overlaps and scores alike."""
        try:
            wanted = _DETECTIONS.validate_python(expected)
        except ValidationError as error:
            return f"the expected answer holds no detections: {error.errors()[0]['msg']}"
        found = cast(Detections, got)
        if (wanted["width"], wanted["height"]) != (found["width"], found["height"]):
            return f"the picture is {found['width']} x {found['height']} pixels"
        if len(wanted["detections"]) != len(found["detections"]):
            return f"{len(found['detections'])} detections, expected {len(wanted['detections'])}"
        for detection in wanted["detections"]:
            candidates = [d for d in found["detections"] if d["label"] == detection["label"]]
            boxes = np.array([_edges(d["box"]) for d in candidates]).reshape(-1, 4)
            overlaps = overlap(_edges(detection["box"]), boxes)
            if not candidates or not overlaps.max() >= _MATCHING_OVERLAP:
                return f"no {detection['label']!r} at {detection['box']}"
            score = candidates[int(overlaps.argmax())]["score"]
            if not abs(score - detection["score"]) <= tolerance:
                return f"{detection['label']!r} has score {score:.4f}, expected {detection['score']:.4f}"
        return None


def unletterbox(
    boxes_xyxy: NDArray[np.float32], size: tuple[int, int], spec: ImageInput
) -> NDArray[np.float64]:
    """Bring boxes back to the picture that was sent: the exact inverse of the letterbox.

    Args:
        boxes_xyxy: f32 [M, 4], shares 0-1 of the graph's input.
        size: Width and height of the picture.
        spec: Of the graph's input.

    Returns:
        f64 [M, 4] in pixels, within the picture.
    """
    left, top, width, height = letterbox(size, spec)
    scale = np.array([spec.width, spec.height] * 2, dtype=np.float64)
    margin = np.array([left, top] * 2)
    stretch = np.array([size[0] / width, size[1] / height] * 2)
    edges = (boxes_xyxy.astype(np.float64) * scale - margin) * stretch
    clipped: NDArray[np.float64] = edges.clip(0, [size[0], size[1]] * 2)
    return clipped


def overlap(box_xyxy: NDArray[np.floating], boxes_xyxy: NDArray[np.floating]) -> NDArray[np.float64]:
    """Intersection over union of one box [4] with many [M, 4]; f64 [M]."""
    corner = np.maximum(box_xyxy[:2], boxes_xyxy[:, :2])
    sides = (np.minimum(box_xyxy[2:], boxes_xyxy[:, 2:]) - corner).clip(0)
    shared = sides.prod(axis=1).astype(np.float64)
    area = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(axis=1) + (box_xyxy[2:] - box_xyxy[:2]).prod()
    ratio: NDArray[np.float64] = shared / np.maximum(area - shared, 1e-12)
    return ratio


def _box(edges: NDArray[np.float64]) -> Box:
    x_min, y_min, x_max, y_max = (round(float(edge), 2) for edge in edges)
    return {"x_min": x_min, "y_min": y_min, "x_max": x_max, "y_max": y_max}


def _edges(box: Box) -> NDArray[np.float64]:
    return np.array([box["x_min"], box["y_min"], box["x_max"], box["y_max"]], dtype=np.float64)
