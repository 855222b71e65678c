"""Clutter in scenes: filled shapes, long lines, scribbles, letters and signs, but no digits.

Nothing here may look like a digit. So there are no rings, no single short strokes, and only letters that do
not resemble a digit.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIGNS = "AEFHKMNRWXYk#@&%*=+?mwx"
_KINDS = ("sign", "sign", "ellipse", "rectangle", "triangle", "line", "scribble", "cross", "dots")


def draw_clutter(size: tuple[int, int], pieces: int, random: np.random.Generator) -> list[Image.Image]:
    """Draw pieces of clutter, one per mask.

    Args:
        size: Width and height of the scene.
        pieces: Number of pieces.
        random: Source of all random numbers.

    Returns:
        Images of mode L and the scene's size, 255 where the piece is.
    """
    masks = []
    for _ in range(pieces):
        mask = Image.new("L", size, 0)
        _draw(_KINDS[random.integers(len(_KINDS))], ImageDraw.Draw(mask), size, random)
        masks.append(mask)
    return masks


def _draw(kind: str, pen: ImageDraw.ImageDraw, size: tuple[int, int], random: np.random.Generator) -> None:
    extent = float(np.exp(random.uniform(np.log(10), np.log(100))))
    x, y = random.uniform(0, size[0]), random.uniform(0, size[1])
    width = max(1, round(extent * random.uniform(0.04, 0.14)))
    if kind == "sign":
        sign = SIGNS[random.integers(len(SIGNS))]
        pen.text((x, y), sign, fill=255, font=_font(round(extent / 4) * 4), anchor="mm")
    elif kind in ("ellipse", "rectangle"):
        half_x, half_y = extent * random.uniform(0.25, 0.6, 2)
        draw = pen.ellipse if kind == "ellipse" else pen.rectangle
        draw((x - half_x, y - half_y, x + half_x, y + half_y), fill=255)
    elif kind == "triangle":
        corners = random.uniform(-0.6, 0.6, (3, 2)) * extent + (x, y)
        pen.polygon([(float(a), float(b)) for a, b in corners], fill=255)
    elif kind == "line":  # from edge to edge, so that it is no 1
        ends = random.uniform(0, 1, 2)
        lying = [(0.0, float(ends[0] * size[1])), (float(size[0]), float(ends[1] * size[1]))]
        standing = [(float(ends[0] * size[0]), 0.0), (float(ends[1] * size[0]), float(size[1]))]
        pen.line(lying if random.random() < 0.5 else standing, fill=255, width=min(width, 6))
    elif kind == "scribble":
        steps = random.normal(0, 0.45, (12, 2)) * extent + (x, y)
        pen.line([(float(a), float(b)) for a, b in steps], fill=255, width=width)
    elif kind == "cross":
        pen.line((x - extent / 2, y, x + extent / 2, y), fill=255, width=width)
        pen.line((x, y - extent / 2, x, y + extent / 2), fill=255, width=width)
    else:
        for a, b in random.normal(0, 0.5, (6, 2)) * extent + (x, y):
            pen.ellipse((a - width, b - width, a + width, b + width), fill=255)


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(max(8, size))
