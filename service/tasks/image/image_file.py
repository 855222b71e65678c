"""Image files, opened with Pillow: bytes -> an upright image, grey or RGB.

This module rejects bad files and writes the error messages that clients read. The size of an image is
checked before any pixel is decoded.
"""

from __future__ import annotations

import struct
from io import BytesIO

import filetype
import numpy as np
from PIL import (
    BmpImagePlugin,  # noqa: F401 - importing a plugin registers its format
    ExifTags,
    GifImagePlugin,  # noqa: F401
    Image,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from service.errors import InvalidInput, TooLarge, UnsupportedMedia

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_SIDE = 65_535  # the limit of JPEG and GIF; resizing a longer side costs gigabytes
_FORMATS_TEXT = "PNG, JPEG, WebP, GIF or BMP"
_MEDIA_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp")
_SNIFFED_BYTES = 262  # what `filetype` looks at

# What Pillow's decoders raise on damaged files, found by fuzzing.
DECODE_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError),
    *(LookupError, TypeError, MemoryError, struct.error),
)

# EXIF orientation -> the transposition that makes the image upright (CIPA DC-008, Exif 2.32, tag 0x0112).
# `ImageOps.exif_transpose` has the same table, but it also rewrites the metadata, which fails where they are
# damaged, and it needs decoded pixels; a JPEG is cropped and reduced while it is decoded.
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Our own pixel limit, checked before any pixel is decoded, replaces Pillow's process-wide one.
Image.MAX_IMAGE_PIXELS = None


def open_image(body: bytes, channels: int, *, max_pixels: int, declared_type: str = "") -> Image.Image:
    """Return the decoded image of a file.

    The first frame of an animation is used, the EXIF orientation is applied, and transparent pixels are
    drawn over white.

    Args:
        body: The file's bytes: PNG, JPEG, WebP, GIF or BMP.
        channels: 1 for grey, 3 for RGB.
        max_pixels: Largest allowed width x height of the file.
        declared_type: Media type that the client sent; used only in error messages.

    Returns:
        An image of mode `L` or `RGB`.

    Raises:
        InvalidInput: The file is empty, damaged or of an unknown format.
        TooLarge: The image has more pixels than allowed.
        UnsupportedMedia: The file is of another known format, such as a PDF.
    """
    if not body:
        raise InvalidInput(f"the image is empty; send the bytes of a {_FORMATS_TEXT} file")
    try:
        with Image.open(BytesIO(body), formats=FORMATS) as image:
            check_size(image.size, max_pixels)
            image.load()
            transposition = read_transposition(image)
            return _to_channels(image if transposition is None else image.transpose(transposition), channels)
    except UnidentifiedImageError as error:
        raise _unidentified(body, declared_type) from error
    except DECODE_ERRORS as error:
        raise InvalidInput(f"the image is damaged: {str(error) or type(error).__name__}") from error


def check_size(size: tuple[int, int], max_pixels: int) -> None:
    """Check the width and height of an image.

    Raises:
        TooLarge: The image has more pixels than allowed, in total or along one side.
    """
    width, height = size
    if max(width, height) > MAX_SIDE:
        raise TooLarge(f"the image is {width} x {height} pixels; the limit of a side is {MAX_SIDE}")
    if width * height > max_pixels:
        raise TooLarge(f"the image has {width} x {height} pixels; the limit is {max_pixels} in total")


def read_transposition(image: Image.Image) -> Image.Transpose | None:
    """Return the transposition that the EXIF orientation asks for; None without one or with broken EXIF."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except (*DECODE_ERRORS, AttributeError, OverflowError):
        return None
    return TRANSPOSITIONS.get(orientation) if isinstance(orientation, int) else None


def _to_channels(image: Image.Image, channels: int) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow holds 16-bit grey as 0-65535 and would clip it to 255 instead of scaling it.
        grey = np.asarray(image, dtype=np.float32) / 257.0
        image = Image.fromarray(grey.round().clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.new("RGB", layer.size, "white")  # pasting on it makes no further copy
        image.paste(layer, mask=layer)
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)  # `convert` always copies


def _unidentified(body: bytes, declared_type: str) -> InvalidInput | UnsupportedMedia:
    found = filetype.guess_mime(body[:_SNIFFED_BYTES])
    if found in _MEDIA_TYPES:
        return InvalidInput(f"the image is damaged: the header of {found} is cut off or wrong")
    if found or (declared_type and not declared_type.startswith("image/")):
        return UnsupportedMedia(f"{found or declared_type} is not decoded here; send a {_FORMATS_TEXT} file")
    return InvalidInput(f"the bytes are not a known image format; send a {_FORMATS_TEXT} file")
