"""Compose a scene: digits of any size, dark on light or light on dark, on a background with clutter.

A digit's box is the smallest rectangle of whole pixels that contains every pixel covered by ink to at least
one half. All random numbers come from one generator: the same material and generator state give the same
scene.

Letters in shapes: `H` height, `W` width, `M` digits in the scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from training.detection.scenes.backgrounds import LUMINANCE, Photograph, Picture, make_background
from training.detection.scenes.clutter import draw_clutter
from training.detection.scenes.digit_ink import Field, Handwriting, write_digit

SMALLEST_SIDE, LARGEST_SIDE = 256, 512  # pixels
FEWEST, MOST = 1, 12  # digits
SHORTEST, TALLEST = 14, 120  # pixels of a digit
LARGEST_OVERLAP = 0.3  # of the smaller of two boxes
CONTRASTS = {"low": (0.2, 0.4), "medium": (0.4, 0.6), "high": (0.6, 0.95)}  # of the range of grey
_LEGIBLE = 1.6  # least ratio of contrast to the background's deviation
_TRIES = 25
PHOTOGRAPHS = 0.4  # share of scenes with a part of a photograph
_OTHERS = {"texture": 0.25, "lines": 0.1, "plain": 0.25}  # in proportion


@dataclass(frozen=True, slots=True)
class SceneLook:
    """The look of a scene, for metrics by look.

    Attributes:
        background: As in `make_background`.
        contrast: Name of a range in `CONTRASTS`: the contrast of every digit with the mean of its background.
    """

    background: str
    contrast: str
    dark_on_light: bool


@dataclass(frozen=True, slots=True)
class Scene:
    """An image and its digits.

    Attributes:
        picture: u8 [H, W, 3].
        boxes_xyxy: i64 [M, 4], pixel edges.
        labels: i64 [M], the digits.
    """

    picture: NDArray[np.uint8]
    boxes_xyxy: NDArray[np.int64]
    labels: NDArray[np.int64]
    look: SceneLook


@dataclass(frozen=True, slots=True)
class SceneMaterial:
    """What scenes are composed from.

    Attributes:
        fields: Digits, from `smooth_field`.
        labels: i64, one per field.
        photographs: Photographs; if empty, no scene has one.
        sides: Smallest and largest side of a scene, in pixels.
        photograph_share: Share of the scenes with a part of a photograph.
    """

    fields: Sequence[Field]
    labels: NDArray[np.int64]
    photographs: Sequence[Photograph]
    sides: tuple[int, int] = (SMALLEST_SIDE, LARGEST_SIDE)
    photograph_share: float = PHOTOGRAPHS


def compose(stock: SceneMaterial, random: np.random.Generator) -> Scene:
    """Compose a scene."""
    share = stock.photograph_share if stock.photographs else 0.0
    kinds = ["photograph", *_OTHERS]
    others = np.array(list(_OTHERS.values()))
    look = SceneLook(
        background=kinds[random.choice(len(kinds), p=[share, *((1 - share) * others / others.sum())])],
        contrast=list(CONTRASTS)[random.integers(len(CONTRASTS))],
        dark_on_light=bool(random.random() < 0.5),
    )
    size = (int(random.integers(stock.sides[0], stock.sides[1] + 1)) for _ in range(2))
    width, height = size
    canvas = make_background(look.background, (width, height), stock.photographs, random)
    _add_clutter(canvas, random)
    canvas = _toned(canvas, look, random)
    count = int(random.integers(FEWEST, MOST + 1))
    boxes: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    for _ in range(count):
        chosen = int(random.integers(len(stock.labels)))
        box = _add_digit(canvas, stock.fields[chosen], boxes, look, random)
        if box is not None:
            boxes.append(box)
            labels.append(int(stock.labels[chosen]))
    if not boxes:  # no digit was legible: try again with the next random numbers
        return compose(stock, random)
    return Scene(
        _photographed(canvas, random),
        np.array(boxes, dtype=np.int64),
        np.array(labels, dtype=np.int64),
        look,
    )


def _add_clutter(canvas: Picture, random: np.random.Generator) -> None:
    if random.random() < 0.3:
        return
    height, width, _ = canvas.shape
    for mask in draw_clutter((width, height), int(random.integers(1, 8)), random):
        box = mask.getbbox()
        if box is None:
            continue
        left, top, right, bottom = box
        part = canvas[top:bottom, left:right]
        cover = np.asarray(mask.crop(box), dtype=np.float32)[..., None] / np.float32(255)
        colour = random.random(3) if random.random() < 0.3 else np.full(3, random.random())
        # Mixed with the background, so that clutter is seldom as strong as ink.
        colour = part.mean(axis=(0, 1)) + random.uniform(0.3, 1.0) * (colour - part.mean(axis=(0, 1)))
        part += cover * (colour.astype(np.float32) - part)


def _toned(canvas: Picture, look: SceneLook, random: np.random.Generator) -> Picture:
    """Reduce a background's contrast so that ink of the scene's contrast is legible on most of it."""
    low, high = CONTRASTS[look.contrast]
    grey = canvas @ LUMINANCE
    mean, deviation = float(grey.mean()), float(grey.std())
    strength = min(1.0, random.uniform(0.6, 1.1) * high / (1.5 * deviation + 1e-6))
    room = 1 - low - 0.05
    level = np.clip(mean, 1 - room, 0.97) if look.dark_on_light else np.clip(mean, 0.03, room)
    toned = level + strength * (canvas - mean)
    light: Picture = np.clip(toned, 0, 1).astype(np.float32)
    return light


def _add_digit(
    canvas: Picture,
    field: Field,
    boxes: Sequence[tuple[int, int, int, int]],
    look: SceneLook,
    random: np.random.Generator,
) -> tuple[int, int, int, int] | None:
    """Write a digit where it is legible and overlaps little; return its box, or None if there is no place."""
    height, width, _ = canvas.shape
    tallest = min(TALLEST, int(0.8 * height))
    for attempt in range(_TRIES):
        if attempt % 5 == 0:
            tall = round(np.exp(random.uniform(np.log(SHORTEST), np.log(tallest))))
            ink = write_digit(field, tall, Handwriting.draw(random))
        rows, columns = ink.shape
        if rows < SHORTEST or columns > width:
            continue
        left, top = int(random.integers(0, width - columns + 1)), int(random.integers(0, height - rows + 1))
        box = (left, top, left + columns, top + rows)
        part = canvas[top : top + rows, left : left + columns]
        colour = _ink_colour(part, look, random)
        if colour is not None and all(_overlap(box, other) <= LARGEST_OVERLAP for other in boxes):
            part += (ink.astype(np.float32) / np.float32(255))[..., None] * (colour - part)
            return box
    return None


def _ink_colour(part: Picture, look: SceneLook, random: np.random.Generator) -> NDArray[np.float32] | None:
    """Choose the ink for a background: f32 [3], or None if no ink of the scene's contrast is legible."""
    grey = part @ LUMINANCE
    mean, deviation = float(grey.mean()), float(grey.std())
    low, high = CONTRASTS[look.contrast]
    room = mean if look.dark_on_light else 1 - mean
    least, most = max(low, _LEGIBLE * deviation), min(high, room)
    if least > most:
        return None
    contrast = random.uniform(least, most)
    level = mean - contrast if look.dark_on_light else mean + contrast
    tint = random.uniform(-0.2, 0.2, 3) * random.integers(2)
    colour = np.clip(level + tint - tint @ LUMINANCE, 0, 1)
    return (colour + (level - colour @ LUMINANCE)).clip(0, 1).astype(np.float32)


def _overlap(box: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """Return the intersection as a share of the smaller box."""
    across = min(box[2], other[2]) - max(box[0], other[0])
    down = min(box[3], other[3]) - max(box[1], other[1])
    if across <= 0 or down <= 0:
        return 0.0
    areas = [(a[2] - a[0]) * (a[3] - a[1]) for a in (box, other)]
    return across * down / min(areas)


def _photographed(canvas: Picture, random: np.random.Generator) -> NDArray[np.uint8]:
    """Add blur and noise, as a camera does; return u8 [H, W, 3]."""
    if random.random() < 0.5:
        grain = random.standard_normal(canvas.shape[:2], dtype=np.float32)
        canvas = canvas + np.float32(random.uniform(0, 0.04)) * grain[..., None]
    picture = Image.fromarray((canvas * 255).round().clip(0, 255).astype(np.uint8))
    if random.random() < 0.4:
        picture = picture.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 0.8)))
    return np.asarray(picture, dtype=np.uint8)
