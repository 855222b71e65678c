"""A digit of 8 × 8 grey levels as ink of any size: smooth edges, varied width, slant and tilt.

The grey levels become a smooth field; a stroke is where the field is above a level, so that it stays
crisp at every size. Sampled several times finer than asked for and averaged, it gives each pixel's ink.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

HALF = 128  # ink that covers at least half of a pixel belongs to the box
_MARGIN = 2  # source pixels around the digit
_ZOOM = 12  # field pixels a source pixel
_FINEST = 96  # rows that a digit is sampled at, at least
_MOST_SAMPLES = 8  # a side, in a pixel

Field = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Hand:
    """How a digit is written.

    Attributes:
        level: Of the field, 0–255, above which there is ink: the lower, the thicker.
        tilt_degrees: Turn against the clock.
        shear: Shift to the right of the top, as a share of the height.
        stretch: Width beside the natural one.
    """

    level: int = 112
    tilt_degrees: float = 0.0
    shear: float = 0.0
    stretch: float = 1.0

    @staticmethod
    def draw(random: np.random.Generator) -> Hand:
        """Choose one at random."""
        return Hand(
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
    # Eyes of a 6 or an 8 that 8 × 8 levels nearly close stay open once local contrast is raised.
    sharp = smooth.filter(ImageFilter.UnsharpMask(radius=1.2 * _ZOOM, percent=180, threshold=0))
    return np.asarray(sharp.filter(ImageFilter.GaussianBlur(0.25 * _ZOOM)), dtype=np.uint8)


def write_digit(field: Field, height: int, hand: Hand) -> NDArray[np.uint8]:
    """Write a digit.

    Args:
        field: From `smooth_field`.
        height: Pixels of the ink.
        hand: How it is written.

    Returns:
        u8 [h, w], the ink's share of each pixel times 255, cut to the pixels that are at least half
        ink; h is `height` or one or two less.
    """
    matrix = _matrix(hand)
    low, high = _extent(field, hand.level, matrix)
    scale = height / (high[1] - low[1])  # pixels a field pixel
    width = max(2, round(float(high[0] - low[0]) * scale))
    samples = int(np.clip(-(-_FINEST // height), 2, _MOST_SAMPLES))
    size = (width * samples, height * samples)
    step = (high - low) / np.array(size)
    inverse = np.linalg.inv(matrix)
    columns = inverse * step  # how the place in the field moves with a step to the right or down
    start = inverse @ low + field.shape[0] / 2
    affine = (columns[0, 0], columns[0, 1], start[0], columns[1, 0], columns[1, 1], start[1])
    sampled = Image.fromarray(field).transform(
        size, Image.Transform.AFFINE, tuple(map(float, affine)), Image.Resampling.BICUBIC
    )
    ink = np.asarray(sampled.point(_stencil(hand.level)).reduce(samples), dtype=np.uint8)
    return ink[tight(ink)]


def tight(ink: NDArray[np.uint8]) -> tuple[slice, slice]:
    """Find the rows and columns from the first to the last pixel that is at least half ink."""
    inked = ink >= HALF
    rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _stencil(level: int) -> list[int]:
    return [255 if value >= level else 0 for value in range(256)]


def _matrix(hand: Hand) -> NDArray[np.float64]:
    """Map the field, x to the right and y downwards, to the written digit: f64 [2, 2]."""
    angle = np.deg2rad(hand.tilt_degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    matrix: NDArray[np.float64] = turn @ np.array([[hand.stretch, -hand.shear], [0.0, 1.0]])
    return matrix


def _extent(
    field: Field, level: int, matrix: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find the written ink's lowest and highest x and y, in field pixels from the field's centre."""
    rows, columns = np.nonzero(field >= level)
    points = np.stack([columns, rows]) + 0.5 - field.shape[0] / 2
    written = matrix @ points
    return written.min(axis=1) - 0.5, written.max(axis=1) + 0.5
