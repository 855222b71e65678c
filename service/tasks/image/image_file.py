"""Picture files, opened by Pillow: any file a person has -> an upright picture in the graph's colours.

What is refused here, and in which words, is what a client is told; no pixel is decoded before the file's
size is checked.
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
MAX_SIDE = 65_535  # the most that JPEG and GIF allow; scaling a longer one costs gigabytes
_FORMATS_TEXT = "PNG, JPEG, WebP, GIF or BMP"
_OUR_MEDIA_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp")
_SNIFFED_BYTES = 262  # what `filetype` looks at

# What Pillow's decoding_pool raise on damaged files, found by feeding them such.
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, MemoryError, struct.error)
# EXIF orientation -> how to turn the picture upright (CIPA DC-008, Exif 2.32, tag 0x0112).
TURNS = {
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


def open_picture(body: bytes, channels: int, *, max_pixels: int, declared_type: str = "") -> Image.Image:
    """Open a picture file, upright and in the colours that a graph takes.

    The first frame of an animation is used, EXIF rotation is applied, transparency is laid on white.

    Args:
        body: The file's bytes: PNG, JPEG, WebP, GIF or BMP.
        channels: 1 for grey, 3 for RGB.
        max_pixels: Most pixels, width x height, allowed in the file.
        declared_type: Media type that the client named; only used to word the refusal.

    Returns:
        A picture of mode `L` or `RGB`.

    Raises:
        InvalidInput: Empty, damaged or unrecognisable.
        TooLarge: More pixels than allowed.
        UnsupportedMedia: Recognised as something else, such as a PDF or a sound.
    """
    if not body:
        raise InvalidInput(f"the picture is empty; send the bytes of a {_FORMATS_TEXT} file")
    try:
        with Image.open(BytesIO(body), formats=FORMATS) as picture:
            check_size(picture.size, max_pixels)
            picture.load()
            turn = turn_of(picture)
            return _to_channels(picture if turn is None else picture.transpose(turn), channels)
    except UnidentifiedImageError as error:
        raise _unidentified(body, declared_type) from error
    except DAMAGE as error:
        raise InvalidInput(f"the picture is damaged: {str(error) or type(error).__name__}") from error


def check_size(size: tuple[int, int], max_pixels: int) -> None:
    """Check width and height of a picture.

    Raises:
        TooLarge: More pixels than allowed, in all or along a side.
    """
    width, height = size
    if max(width, height) > MAX_SIDE:
        raise TooLarge(f"the picture is {width} x {height} pixels; the limit of a side is {MAX_SIDE}")
    if width * height > max_pixels:
        raise TooLarge(f"the picture has {width} x {height} pixels; the limit is {max_pixels} in all")


def turn_of(picture: Image.Image) -> Image.Transpose | None:
    """Tell how EXIF data says to turn a picture; broken EXIF data is no reason to refuse sound pixels."""
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation)
    except (*DAMAGE, AttributeError, OverflowError):
        return None
    return TURNS.get(orientation) if isinstance(orientation, int) else None


def _to_channels(picture: Image.Image, channels: int) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        # Pillow holds 16-bit grey as 0–65535 and would clip it to 255 instead of scaling.
        grey = np.asarray(picture, dtype=np.float32) / 257.0
        picture = Image.fromarray(grey.round().clip(0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        layer = picture if picture.mode == "RGBA" else picture.convert("RGBA")
        picture = Image.new("RGB", layer.size, "white")  # pasting on it makes no further copies
        picture.paste(layer, mask=layer)
    mode = "L" if channels == 1 else "RGB"
    return picture if picture.mode == mode else picture.convert(mode)  # which would copy it


def _unidentified(body: bytes, declared_type: str) -> InvalidInput | UnsupportedMedia:
    found = filetype.guess_mime(body[:_SNIFFED_BYTES])
    if found in _OUR_MEDIA_TYPES:
        return InvalidInput(f"the picture is damaged: the header of {found} is cut off or wrong")
    kind = found or declared_type
    if found or (declared_type and not declared_type.startswith("image/")):
        return UnsupportedMedia(f"{kind} is not decoded here; send a {_FORMATS_TEXT} file")
    return InvalidInput(f"the bytes are not a picture that we know; send a {_FORMATS_TEXT} file")
