"""Detections drawn into the picture that was sent: around each a box, and at its edge label and score."""

from __future__ import annotations

import math
from contextlib import suppress
from io import BytesIO

from PIL import ImageDraw, ImageFont

from service.tasks.image.detection import Box, Detection, Detections
from service.tasks.image.image_file import open_picture

# White text can be read on each (contrast of 4.5 and more: WCAG 2.2, 1.4.3), and each is seen on white.
# On what is dark the white line around a box is seen.
COLOURS = (
    *("#c4122f", "#1b7837", "#2f4fc4", "#a65000", "#7b1fa2"),
    *("#00756b", "#ad1457", "#5d4037", "#37474f", "#736900"),
)
_HOSTS_FONT = "DejaVuSans.ttf"  # Debian's fonts-dejavu-core; it has nearly all alphabets
_LEAST_TEXT = 12  # pixels
_PADDING = 2  # pixels around a label's text
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_FAST = 1  # zlib's level; files are a tenth to two fifths larger than usual, and there in half of the time


def draw(body: bytes, result: Detections, max_pixels: int) -> bytes:
    """Draw a result into the picture that it is of.

    Lines are drawn around boxes, so that what was found is left as it is, and labels above them, or below
    where there is no room.

    Args:
        body: The picture as it was sent.
        result: What was found in it.
        max_pixels: As in decoding.

    Returns:
        A PNG file: the picture upright, in RGB.
    """
    picture = open_picture(body, 3, max_pixels=max_pixels)
    pen = ImageDraw.Draw(picture)
    line = math.ceil(min(picture.size) / 200)
    texts = [detection["label"] for detection in result["detections"]]
    font = _font("".join(texts), max(_LEAST_TEXT, min(picture.size) / 30))
    surest_last = result["detections"][::-1]  # so that nothing covers it
    for detection in surest_last:
        around = _around(detection["box"], line + 1, picture.size)
        pen.rectangle(around, outline="white")
        around = _around(detection["box"], line, picture.size)
        pen.rectangle(around, outline=_colour(detection), width=line)
    for detection in surest_last:
        around = _around(detection["box"], line, picture.size)
        _label(pen, detection, around, font, picture.size)
    file = BytesIO()
    picture.save(file, "PNG", compress_level=_FAST)
    return file.getvalue()


def _font(letters: str, size: float) -> _Font:
    """Choose Pillow's own font, which has ASCII alone; for more one of the host's, if it is there."""
    if not letters.isascii():
        with suppress(OSError):
            return ImageFont.truetype(_HOSTS_FONT, size)
    return ImageFont.load_default(size)


def _around(box: Box, distance: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Give the first and last column and row of a line around a box, or of the picture where it ends."""
    left = max(0, math.floor(box["x_min"]) - distance)
    top = max(0, math.floor(box["y_min"]) - distance)
    right = min(size[0], math.ceil(box["x_max"]) + distance) - 1
    bottom = min(size[1], math.ceil(box["y_max"]) + distance) - 1
    return left, top, max(left, right), max(top, bottom)


def _label(
    pen: ImageDraw.ImageDraw,
    detection: Detection,
    around: tuple[int, int, int, int],
    font: _Font,
    size: tuple[int, int],
) -> None:
    text = f"{detection['label']} {detection['score']:.2f}"
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right - left + 2 * _PADDING, bottom - top + 2 * _PADDING
    x = max(0, min(around[0], size[0] - width))
    above, below = around[1] - height, around[3] + 1
    y = above if above >= 0 else below if below + height <= size[1] else around[1]
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=_colour(detection))
    pen.text((x + _PADDING - left, y + _PADDING - top), text, fill="white", font=font)


def _colour(detection: Detection) -> str:
    """Choose a colour by the label, the same in every picture."""
    return COLOURS[sum(detection["label"].encode()) % len(COLOURS)]
