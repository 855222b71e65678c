"""Render a digit of 8 × 8 grey levels as ink of any size: smooth edges, varied width, slant and tilt.

The grey levels become a smooth field, and ink is where the field exceeds a level, so that edges stay sharp at
every size. The field is sampled several times finer than the result and averaged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

HALF = 128  # pixels with at least half ink belong to the box
_MARGIN = 2  # source pixels around the digit
_ZOOM = 12  # field pixels a source pixel
_FINEST = 96  # rows that a digit is sampled at, at least
_MOST_SAMPLES = 8  # a side, in a pixel

Field = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Handwriting:
    """How a digit is written.

    Attributes:
        level: Level of the field, 0–255, above which there is ink: a lower one gives thicker strokes.
        tilt_degrees: Rotation counter-clockwise.
        shear: Shift of the top to the right, as a share of the height.
        stretch: Width relative to the natural width.
    """

    level: int = 112
    tilt_degrees: float = 0.0
    shear: float = 0.0
    stretch: float = 1.0

    @staticmethod
    def draw(random: np.random.Generator) -> Handwriting:
        """Return a random handwriting."""
        return Handwriting(
            level=int(random.integers(100, 156)),
            tilt_degrees=random.uniform(-14, 14),
            shear=random.uniform(-0.2, 0.2),
            stretch=float(np.exp(random.uniform(-0.2, 0.2))),
        )


def smooth_field(digit: NDArray[np.uint8]) -> Field:
    """Enlarge u8 [8, 8], light ink on dark, to a smooth field u8 [144, 144]."""
    padded = Image.fromarray(np.pad(digit, _MARGIN))
    side = padded.width * _ZOOM
    smooth = padded.resize((side, side), Image.Resampling.BICUBIC)
    # Local contrast keeps the eyes of a 6 or an 8 open, which 8 × 8 levels nearly close.
    sharp = smooth.filter(ImageFilter.UnsharpMask(radius=1.2 * _ZOOM, percent=180, threshold=0))
    return np.asarray(sharp.filter(ImageFilter.GaussianBlur(0.25 * _ZOOM)), dtype=np.uint8)


def write_digit(field: Field, height: int, hand: Handwriting) -> NDArray[np.uint8]:
    """Render a digit.

    Args:
        field: From `smooth_field`.
        height: Height of the ink in pixels.
        hand: The handwriting.

    Returns:
        u8 [h, w], the ink's share of each pixel times 255, cropped to pixels with at least half ink; h is
        `height` or one or two less.
    """
    matrix = _matrix(hand)
    low, high = _extent(field, hand.level, matrix)
    scale = height / (high[1] - low[1])  # pixels a field pixel
    width = max(2, round(float(high[0] - low[0]) * scale))
    samples = int(np.clip(-(-_FINEST // height), 2, _MOST_SAMPLES))
    size = (width * samples, height * samples)
    step = (high - low) / np.array(size)
    inverse = np.linalg.inv(matrix)
    columns = inverse * step  # change of the position in the field per step to the right or down
    start = inverse @ low + field.shape[0] / 2
    affine = (columns[0, 0], columns[0, 1], start[0], columns[1, 0], columns[1, 1], start[1])
    sampled = Image.fromarray(field).transform(
        size, Image.Transform.AFFINE, tuple(map(float, affine)), Image.Resampling.BICUBIC
    )
    ink = np.asarray(sampled.point(_stencil(hand.level)).reduce(samples), dtype=np.uint8)
    return ink[ink_bounds(ink)]


def ink_bounds(ink: NDArray[np.uint8]) -> tuple[slice, slice]:
    """Return the rows and columns from the first to the last pixel with at least half ink."""
    inked = ink >= HALF
    rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _stencil(level: int) -> list[int]:
    return [255 if value >= level else 0 for value in range(256)]


def _matrix(hand: Handwriting) -> NDArray[np.float64]:
    """Return the map from the field, x to the right and y downwards, to the written digit: f64 [2, 2]."""
    angle = np.deg2rad(hand.tilt_degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    matrix: NDArray[np.float64] = turn @ np.array([[hand.stretch, -hand.shear], [0.0, 1.0]])
    return matrix


def _extent(
    field: Field, level: int, matrix: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lowest and highest x and y of the written ink, in field pixels from the field's centre."""
    rows, columns = np.nonzero(field >= level)
    points = np.stack([columns, rows]) + 0.5 - field.shape[0] / 2
    written = matrix @ points
    return written.min(axis=1) - 0.5, written.max(axis=1) + 0.5
