"""Picture files for tests."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from hypothesis import settings
from numpy.typing import NDArray
from PIL import Image

from service.repository.manifest import ImageInput
from service.tasks.image.preprocessing import decode_image

MAX_PIXELS = 10**6
quickly = settings(deadline=None, max_examples=60)

Pixels = NDArray[np.uint8]

# EXIF orientation -> how an upright image is stored under it.
TO_STORE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def spec(width: int = 8, height: int = 8, channels: Any = 3, **fields: Any) -> ImageInput:
    return ImageInput(width=width, height=height, channels=channels, **fields)


def encode(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    if format == "WEBP":
        options = {"lossless": True, "exact": True, **options}
    image.save(file, format, **options)
    return file.getvalue()


def decode(body: bytes, wanted: ImageInput | None = None, **options: Any) -> Pixels:
    return decode_image(body, wanted or spec(), max_pixels=MAX_PIXELS, **options)


def noise(width: int = 8, height: int = 8, channels: int = 3, seed: int = 0) -> Pixels:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def shape_of(width: int, height: int, format: str = "PNG") -> bytes:
    """An image whose corners differ: red, green, blue, white, clockwise from the upper left."""
    corners = np.array([[[255, 0, 0], [0, 255, 0]], [[255, 255, 255], [0, 0, 255]]], dtype=np.uint8)
    image = Image.fromarray(corners).resize((width, height), Image.Resampling.NEAREST)
    return encode(image, format)


def png(width: int, height: int, *, bits: int = 8, colour: int = 0, rows: bytes = b"") -> bytes:
    """A PNG file of a few bytes, whatever size it claims to have."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows, 9))
        + chunk(b"IEND", b"")
    )


GREYS = np.array([[0, 64], [128, 255]], dtype=np.uint8)


def of_mode(mode: str) -> Image.Image:
    grey = Image.fromarray(GREYS)
    if mode == "I;16":
        return Image.fromarray(GREYS.astype(np.uint16) * 257)
    return grey.convert(mode)
