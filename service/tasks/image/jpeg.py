"""JPEG files, decoded by libjpeg-turbo at full, half, quarter or eighth size.

Most images are larger than the graph's input, and decoding at a reduced size is much cheaper. Only plain
files are decoded here. Unusual files (damaged, cut off, CMYK, 12-bit) are left to Pillow, which decodes or
rejects them.

Array shapes: `H` height, `W` width, `C` channels (1 grey or 3 RGB).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray

REDUCTIONS = (8, 4, 2)  # decoding at other scales takes longer than at full size
_SMALLEST_SIDE = 64  # below this nothing is saved, and two reductions could give the same size
_SIGNATURE = b"\xff\xd8\xff"
# Markers of ITU-T T.81, table B.1. Supported frames: baseline, extended sequential, progressive.
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
_OTHER_FRAMES = frozenset({0xC3, *range(0xC5, 0xD0)}) - {0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x00, 0x01, *range(0xD0, 0xDA), 0xFF})
_START_OF_SCAN = 0xDA
_APP1 = 0xE1  # holds EXIF and XMP


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """The header of a plain JPEG file.

    Attributes:
        width: As stored, before any rotation; `height` likewise.
        has_metadata: Whether there is EXIF or XMP data, which may hold an orientation.
    """

    width: int
    height: int
    has_metadata: bool


def read_jpeg_header(body: bytes) -> JpegHeader | None:
    """Return the header of a file, read up to its first scan.

    Returns:
        None unless the file is a plain JPEG with 8 bits and one or three components.
    """
    if not body.startswith(_SIGNATURE):
        return None
    position, size, has_metadata = 2, None, False
    try:
        while (marker := body[position + 1]) != _START_OF_SCAN:
            if body[position] != 0xFF or marker in _WITHOUT_LENGTH or marker in _OTHER_FRAMES:
                return None
            if marker in _FRAMES:
                if size or body[position + 4] != 8 or body[position + 9] not in (1, 3):
                    return None
                size = _number(body, position + 7), _number(body, position + 5)
            has_metadata |= marker == _APP1
            position += 2 + max(2, _number(body, position + 2))
    except IndexError:  # the file ends inside the header
        return None
    if body[position] != 0xFF or size is None or 0 in size:
        return None
    return JpegHeader(*size, has_metadata)


def _number(body: bytes, position: int) -> int:
    return body[position] << 8 | body[position + 1]


def choose_reduction(size: tuple[float, float], wanted: tuple[float, float]) -> int:
    """Return the largest reduction that keeps enough pixels.

    Args:
        size: Width and height of the image.
        wanted: Smallest allowed width and height after the reduction.

    Returns:
        8, 4, 2 or 1.
    """
    if min(size) < _SMALLEST_SIDE:
        return 1
    possible = (by for by in REDUCTIONS if size[0] / by >= wanted[0] and size[1] / by >= wanted[1])
    return next(possible, 1)


def decode_jpeg(body: bytes, header: JpegHeader, reduction: int, channels: int) -> NDArray[np.uint8] | None:
    """Return the pixels of a plain file.

    Args:
        body: The file.
        header: Of this file.
        reduction: 1, 2, 4 or 8; see `choose_reduction`.
        channels: 1 for grey, which is the file's luminance, or 3 for RGB.

    Returns:
        u8 [⌈H/reduction⌉, ⌈W/reduction⌉, C], as stored; None if the decoder found any fault.
    """
    height, width = math.ceil(header.height / reduction), math.ceil(header.width / reduction)
    colours = "GRAY" if channels == 1 else "RGB"
    try:
        pixels = simplejpeg.decode_jpeg(body, colours, min_height=height, min_width=width)
    except (ValueError, MemoryError):
        return None
    return pixels if pixels.shape == (height, width, channels) else None
