"""Detections drawn into the image that was sent: a box around each object, with label and score."""

from __future__ import annotations

import math
from contextlib import suppress
from io import BytesIO

from PIL import ImageDraw, ImageFont

from service.tasks.image.detection import Box, Detection, Detections
from service.tasks.image.image_file import open_image

# White text is readable on each colour (contrast of at least 4.5: WCAG 2.2, 1.4.3), and each colour is
# visible on white. On dark images the white outline around a box is visible.
COLOURS = (
    *("#c4122f", "#1b7837", "#2f4fc4", "#a65000", "#7b1fa2"),
    *("#00756b", "#ad1457", "#5d4037", "#37474f", "#736900"),
)
_SYSTEM_FONT = "DejaVuSans.ttf"  # Debian's fonts-dejavu-core; it covers most alphabets
_MIN_TEXT_SIZE = 12  # pixels
_PADDING = 2  # pixels around a label's text
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_COMPRESSION_LEVEL = 1  # files are 10 to 40 percent larger than at the default level, in half the time


def draw_detections(body: bytes, result: Detections, max_pixels: int) -> bytes:
    """Return the image with its detections drawn.

    Lines are drawn outside of the boxes, so that they do not hide objects. Labels are drawn above the boxes,
    or below where there is no room.

    Args:
        body: The image file as it was sent.
        result: The detections.
        max_pixels: See `open_image`.

    Returns:
        A PNG file: the upright image, in RGB.
    """
    image = open_image(body, 3, max_pixels=max_pixels)
    pen = ImageDraw.Draw(image)
    line = math.ceil(min(image.size) / 200)
    texts = [detection["label"] for detection in result["detections"]]
    font = _font("".join(texts), max(_MIN_TEXT_SIZE, min(image.size) / 30))
    best_last = result["detections"][::-1]  # later ones are drawn on top
    for detection in best_last:
        edges = _outline(detection["box"], line + 1, image.size)
        pen.rectangle(edges, outline="white")
        edges = _outline(detection["box"], line, image.size)
        pen.rectangle(edges, outline=_colour(detection), width=line)
    for detection in best_last:
        edges = _outline(detection["box"], line, image.size)
        _label(pen, detection, edges, font, image.size)
    file = BytesIO()
    image.save(file, "PNG", compress_level=_COMPRESSION_LEVEL)
    return file.getvalue()


def _font(letters: str, size: float) -> _Font:
    """Return Pillow's own font for ASCII; for other letters the system's font, if it is installed."""
    if not letters.isascii():
        with suppress(OSError):
            return ImageFont.truetype(_SYSTEM_FONT, size)
    return ImageFont.load_default(size)


def _outline(box: Box, distance: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the first and last column and row of a line around a box, clipped to the image."""
    left = max(0, math.floor(box["x_min"]) - distance)
    top = max(0, math.floor(box["y_min"]) - distance)
    right = min(size[0], math.ceil(box["x_max"]) + distance) - 1
    bottom = min(size[1], math.ceil(box["y_max"]) + distance) - 1
    return left, top, max(left, right), max(top, bottom)


def _label(
    pen: ImageDraw.ImageDraw,
    detection: Detection,
    edges: tuple[int, int, int, int],
    font: _Font,
    size: tuple[int, int],
) -> None:
    text = f"{detection['label']} {detection['score']:.2f}"
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right - left + 2 * _PADDING, bottom - top + 2 * _PADDING
    x = max(0, min(edges[0], size[0] - width))
    above, below = edges[1] - height, edges[3] + 1
    y = above if above >= 0 else below if below + height <= size[1] else edges[1]
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=_colour(detection))
    pen.text((x + _PADDING - left, y + _PADDING - top), text, fill="white", font=font)


def _colour(detection: Detection) -> str:
    """Return the colour of the label; it is the same in every image."""
    return COLOURS[sum(detection["label"].encode()) % len(COLOURS)]
