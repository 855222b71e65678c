"""Draw the worst errors on one sheet: false detections with high scores, and missed objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from training.detection.dataset import AnnotatedImage
from training.detection.metrics import THRESHOLD, matches
from training.detection.predict import Predicted

_TILE, _CAPTION = 120, 16  # pixels
_COLUMNS, _MOST = 8, 32
_THERE, _ANSWERED = (40, 200, 60), (255, 40, 40)


@dataclass(frozen=True, slots=True)
class DetectionError:
    """A false detection or a missed object.

    Attributes:
        weight: Score of a false detection; 0.5 or less for a missed object.
        box_xyxy: Position in pixels of the image.
        caption: The right label, then the detected label and its score, with a dash for none.
    """

    file: AnnotatedImage
    weight: float
    box_xyxy: NDArray[np.float64]
    there_xyxy: NDArray[np.float64] | None
    answered_xyxy: NDArray[np.float64] | None
    caption: str


def find_misses(
    files: Sequence[AnnotatedImage], found: Sequence[Predicted], classes: tuple[str, ...]
) -> list[DetectionError]:
    """Return the errors at the default threshold, the worst first."""
    misses = []
    for file, one in zip(files, found, strict=True):
        sure = one.scores >= THRESHOLD
        matched = matches(file, one, sure)
        lost = [j for j in range(len(file.labels)) if j not in matched.values()]
        for i in np.flatnonzero(sure).tolist():
            if i in matched:
                continue
            box, score = one.boxes_xyxy[i], float(one.scores[i])
            place = _nearest(box, file, lost)
            there = "-"
            if place is not None:
                lost.remove(place)
                there = classes[file.labels[place]]
            misses.append(
                DetectionError(
                    file,
                    score,
                    box,
                    None if place is None else file.boxes_xyxy[place],
                    box,
                    f"{there} > {classes[one.labels[i]]} {score:.2f}",
                )
            )
        for j in lost:
            height = float(file.boxes_xyxy[j, 3] - file.boxes_xyxy[j, 1])
            weight = 0.5 * height / (height + 50)  # larger objects are worse to miss
            caption = f"{classes[file.labels[j]]} > -"
            misses.append(DetectionError(file, weight, file.boxes_xyxy[j], file.boxes_xyxy[j], None, caption))
    return sorted(misses, key=lambda miss: -miss.weight)


def draw_misses(misses: Sequence[DetectionError], path: Path) -> None:
    """Draw the worst errors: annotations in green frames, detections in red ones."""
    shown = list(misses)[:_MOST]
    rows = max(1, -(-len(shown) // _COLUMNS))
    sheet = Image.new("RGB", (_COLUMNS * _TILE, rows * (_TILE + _CAPTION)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, miss in enumerate(shown):
        left, top = number % _COLUMNS * _TILE, number // _COLUMNS * (_TILE + _CAPTION)
        sheet.paste(_tile(miss), (left, top))
        pen.text((left + 3, top + _TILE + 1), miss.caption, fill="black", font=font)
    sheet.save(path, quality=85)


def _tile(miss: DetectionError) -> Image.Image:
    with Image.open(BytesIO(miss.file.file)) as picture:
        centre = (miss.box_xyxy[:2] + miss.box_xyxy[2:]) / 2
        reach = max(24.0, 0.8 * float((miss.box_xyxy[2:] - miss.box_xyxy[:2]).max()))
        corner = centre - reach
        area = (*corner, *(centre + reach))
        scale = _TILE / (2 * reach)
        cut = picture.convert("RGB").crop(tuple(round(edge) for edge in area))
        tile = cut.resize((_TILE - 2, _TILE - 2), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(tile)
    for box, colour in ((miss.there_xyxy, _THERE), (miss.answered_xyxy, _ANSWERED)):
        if box is not None:
            edges = (box - np.tile(corner, 2)) * scale
            pen.rectangle(edges.tolist(), outline=colour, width=1)
    return tile


def _nearest(box: NDArray[np.float64], file: AnnotatedImage, lost: Sequence[int]) -> int | None:
    """Return the missed object that a false detection probably means: one whose centre it contains."""
    for j in lost:
        centre = (file.boxes_xyxy[j, :2] + file.boxes_xyxy[j, 2:]) / 2
        if (box[:2] <= centre).all() and (centre <= box[2:]).all():
            return j
    return None
