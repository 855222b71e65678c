"""Digits drawn from pen strokes, for writing habits that the bundled digits lack.

The 13 writers of the bundled digits all cross the 7, and hardly any writes the 1 with both flag and foot or
closes the 6 as in print. Each form here is a list of pen points. Every drawing moves the points a little,
chooses width, slant and pen, and is reduced to 8 × 8 levels like the bundled digits. The drawings are only
used for training, never for evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIDE = 8
_ZOOM = 16
_CURVE_STEPS = 10

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Stroke:
    """One line of the pen.

    Attributes:
        points: x to the right and y downwards, 0–1 over the digit's box.
        curved: Whether the pen follows a curve through the points.
    """

    points: tuple[Point, ...]
    curved: bool = False


def _line(*points: Point) -> Stroke:
    return Stroke(points)


def _curve(*points: Point) -> Stroke:
    return Stroke(points, curved=True)


Form = tuple[Stroke, ...]

_BELLY = ((0.18, 0.42), (0.6, 0.36), (0.9, 0.68), (0.55, 1.0), (0.08, 0.9))
_SIX = ((0.75, 0.0), (0.3, 0.3), (0.1, 0.72), (0.5, 1.0), (0.9, 0.72), (0.5, 0.45), (0.14, 0.68))
_PRINTED_SIX = (
    *((0.86, 0.12), (0.5, 0.0), (0.13, 0.35), (0.13, 0.75)),
    *((0.5, 1.0), (0.88, 0.69), (0.5, 0.4), (0.14, 0.62)),
)
_EIGHT = (
    *((0.5, 0.0), (0.86, 0.22), (0.5, 0.47), (0.1, 0.75)),
    *((0.5, 1.0), (0.9, 0.75), (0.5, 0.47), (0.14, 0.22), (0.5, 0.0)),
)
_LOOP = ((0.86, 0.28), (0.5, 0.0), (0.12, 0.28), (0.5, 0.56), (0.86, 0.28))


def _turned(points: tuple[Point, ...]) -> tuple[Point, ...]:
    return tuple((1 - x, 1 - y) for x, y in points)


FORMS: dict[int, tuple[Form, ...]] = {
    0: ((_curve((0.5, 0), (0.92, 0.25), (0.92, 0.75), (0.5, 1), (0.08, 0.75), (0.08, 0.25), (0.5, 0)),),),
    1: (
        (_line((0.5, 0), (0.5, 1)),),
        (_line((0.15, 0.28), (0.5, 0), (0.5, 1)),),
        (_line((0.15, 0.25), (0.5, 0), (0.5, 1)), _line((0.15, 1), (0.85, 1))),
    ),
    2: (
        (
            _curve((0.1, 0.25), (0.32, 0.02), (0.72, 0.03), (0.88, 0.3), (0.5, 0.68), (0.1, 1)),
            _line((0.1, 1), (0.92, 1)),
        ),
    ),
    3: (
        (
            _curve((0.12, 0.12), (0.5, 0), (0.82, 0.2), (0.42, 0.47)),
            _curve((0.42, 0.47), (0.9, 0.72), (0.5, 1), (0.08, 0.88)),
        ),
        (_line((0.1, 0), (0.86, 0), (0.42, 0.4)), _curve((0.42, 0.4), (0.9, 0.7), (0.5, 1), (0.06, 0.9))),
    ),
    4: (
        (_line((0.7, 1), (0.7, 0), (0.05, 0.7), (0.98, 0.7)),),
        (_line((0.2, 0), (0.08, 0.58), (0.95, 0.58)), _line((0.7, 0.2), (0.7, 1))),
    ),
    5: ((_line((0.86, 0), (0.22, 0), (0.18, 0.42)), _curve(*_BELLY)),),
    6: ((_curve(*_SIX),), (_curve(*_PRINTED_SIX),)),
    7: (
        (_line((0.05, 0), (0.95, 0), (0.35, 1)),),
        (_line((0.05, 0), (0.95, 0)), _curve((0.95, 0), (0.58, 0.45), (0.42, 1))),
        (_line((0.05, 0.16), (0.05, 0), (0.95, 0), (0.4, 1)),),
        (_line((0.05, 0), (0.95, 0), (0.35, 1)), _line((0.3, 0.5), (0.85, 0.5))),
    ),
    8: ((_curve(*_EIGHT),),),
    9: (
        (_curve(*_turned(_SIX)),),
        (_curve(*_turned(_PRINTED_SIX)),),
        (_curve(*_LOOP), _line((0.86, 0.28), (0.8, 1))),
    ),
}  # fmt: skip


def draw_digits(per_class: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw every digit equally often, its forms in turn.

    Args:
        per_class: Drawings of each digit.
        seed: Seed of all random choices.

    Returns:
        u8 [10 × `per_class`, 8, 8, 1], light ink on dark, and i64 labels.
    """
    random = np.random.default_rng(seed)
    pictures = np.zeros((len(FORMS) * per_class, SIDE, SIDE, 1), np.uint8)
    labels = np.repeat(np.arange(len(FORMS)), per_class)
    for i, label in enumerate(labels):
        forms = FORMS[int(label)]
        pictures[i, :, :, 0] = _draw(forms[i % len(forms)], random)
    return pictures, labels.astype(np.int64)


def _draw(form: Form, random: np.random.Generator) -> NDArray[np.uint8]:
    """Draw one form: u8 [8, 8]."""
    width, slant = random.uniform(0.45, 0.9), random.uniform(-0.25, 0.2)
    lines = [_moved(stroke, width, slant, random) for stroke in form]
    side = SIDE * _ZOOM
    pen = max(2, round(side * random.uniform(0.07, 0.17)))
    everything = np.concatenate(lines)
    low, high = everything.min(axis=0), everything.max(axis=0)
    scale = (side - pen) / (high - low).max()
    offset = (side - scale * (high + low)) / 2
    drawing = Image.new("L", (side, side), 0)
    tool = ImageDraw.Draw(drawing)
    for line in lines:
        points = [(float(x), float(y)) for x, y in line * scale + offset]
        tool.line(points, fill=255, width=pen, joint="curve")
        for x, y in (points[0], points[-1]):
            tool.ellipse((x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2), fill=255)
    return np.asarray(drawing.reduce(_ZOOM), dtype=np.uint8)


def _moved(stroke: Stroke, width: float, slant: float, random: np.random.Generator) -> NDArray[np.float64]:
    """Return a stroke's points, shifted at random and joined by a curve: f64 [points, 2]."""
    points = np.array(stroke.points, dtype=np.float64)
    points += random.normal(0, 0.035, points.shape)
    points[:, 0] = points[:, 0] * width + slant * (0.5 - points[:, 1])
    return _through(points) if stroke.curved else points


def _through(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return points on a Catmull-Rom spline (Catmull and Rom, 1974)."""
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    t = np.linspace(0, 1, _CURVE_STEPS)[:, None]
    pieces = []
    for before, start, end, after in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        pieces.append(
            0.5
            * (
                2 * start
                + (end - before) * t
                + (2 * before - 5 * start + 4 * end - after) * t**2
                + (3 * start - before - 3 * end + after) * t**3
            )
        )
    return np.concatenate(pieces)
