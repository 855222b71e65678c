"""JPEG files by the fast decoder, at a half, a quarter or an eighth of their size where that is enough.

Most pictures are larger than what a graph takes, and a smaller one comes out of the same file for the
cost of reading its bits. Only plain files are decoded here: what is odd, damaged, cut off, CMYK or 12-bit
is left to Pillow, whose word on it is final.

Letters in shapes: `H` height, `W` width, `C` channels (1 grey or 3 RGB).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray

REDUCTIONS = (8, 4, 2)  # other scales take longer to decode than the whole picture
_SMALLEST_SIDE = 64  # below this nothing is gained, and two reductions might give the same size
_SIGNATURE = b"\xff\xd8\xff"
# Markers of ITU-T T.81, table B.1. Frames that are decoded here: baseline, extended sequential, progressive.
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
_OTHER_FRAMES = frozenset({0xC3, *range(0xC5, 0xD0)}) - {0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x00, 0x01, *range(0xD0, 0xDA), 0xFF})
_START_OF_SCAN = 0xDA
_APP1 = 0xE1  # EXIF and XMP stand there


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """What a plain JPEG file says of itself.

    Attributes:
        width: Stored, before any rotation; `height` likewise.
        has_metadata: Whether there is EXIF or XMP data, which may tell to turn the picture.
    """

    width: int
    height: int
    has_metadata: bool


def read_jpeg_header(body: bytes) -> JpegHeader | None:
    """Read a file up to its first scan.

    Returns:
        None for what is no plain JPEG file of 8 bits, grey or three colours.
    """
    if not body.startswith(_SIGNATURE):
        return None
    place, size, has_metadata = 2, None, False
    try:
        while (marker := body[place + 1]) != _START_OF_SCAN:
            if body[place] != 0xFF or marker in _WITHOUT_LENGTH or marker in _OTHER_FRAMES:
                return None
            if marker in _FRAMES:
                if size or body[place + 4] != 8 or body[place + 9] not in (1, 3):
                    return None
                size = _number(body, place + 7), _number(body, place + 5)
            has_metadata |= marker == _APP1
            place += 2 + max(2, _number(body, place + 2))
    except IndexError:  # it ends here
        return None
    if body[place] != 0xFF or size is None or 0 in size:
        return None
    return JpegHeader(*size, has_metadata)


def _number(body: bytes, place: int) -> int:
    return body[place] << 8 | body[place + 1]


def choose_reduction(size: tuple[float, float], wanted: tuple[float, float]) -> int:
    """Choose how much smaller a picture may be decoded.

    Args:
        size: Width and height of the picture.
        wanted: Width and height that it must at least keep.

    Returns:
        8, 4, 2 or 1.
    """
    if min(size) < _SMALLEST_SIDE:
        return 1
    fitting = (by for by in REDUCTIONS if size[0] / by >= wanted[0] and size[1] / by >= wanted[1])
    return next(fitting, 1)


def decode_jpeg(body: bytes, header: JpegHeader, reduction: int, channels: int) -> NDArray[np.uint8] | None:
    """Decode a plain file.

    Args:
        body: The file.
        header: Of this file.
        reduction: 1, 2, 4 or 8; see `choose_reduction`.
        channels: 1 for grey, which is the file's luminance, or 3 for RGB.

    Returns:
        u8 [⌈H/reduction⌉, ⌈W/reduction⌉, C], as stored; None where the decoder found the least fault.
    """
    height, width = math.ceil(header.height / reduction), math.ceil(header.width / reduction)
    colours = "GRAY" if channels == 1 else "RGB"
    try:
        pixels = simplejpeg.decode_jpeg(body, colours, min_height=height, min_width=width)
    except (ValueError, MemoryError):
        return None
    return pixels if pixels.shape == (height, width, channels) else None
