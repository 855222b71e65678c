"""Image files -> `uint8` pixels of the graph's size: the preprocessing of all image tasks.

Decoding, EXIF orientation, colour conversion and one resize happen here. Scaling to floats, normalising and
softmax are nodes of the graph.

Array shapes: `H` height, `W` width, `C` channels (1 grey or 3 RGB).
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.repository.manifest import ImageInput
from service.tasks.image.image_file import (
    DECODE_ERRORS,
    TRANSPOSITIONS,
    check_size,
    open_image,
    read_transposition,
)
from service.tasks.image.jpeg import choose_reduction, decode_jpeg, read_jpeg_header
from service.tasks.image.resizing import CropBox, scale_image, scale_pixels, uses_antialiasing

_SWAPS_AXES = frozenset({TRANSPOSITIONS[orientation] for orientation in (5, 6, 7, 8)})
_MIN_OVERSAMPLING = 1.2  # a JPEG is decoded at a reduced size of at least this many times the output size


@dataclass(frozen=True, slots=True)
class ResizedImage:
    """An image as the graph takes it.

    Attributes:
        pixels: u8 [H, W, C], contiguous.
        original_size: Width and height of the image in the file, upright.
    """

    pixels: NDArray[np.uint8]
    original_size: tuple[int, int]


def decode_and_resize(
    body: bytes, spec: ImageInput, *, max_pixels: int, declared_type: str = ""
) -> ResizedImage:
    """Return the pixels that the graph takes, and the original size.

    A plain JPEG file is decoded at a reduced size if that is enough. Every other file, and every JPEG file
    with a fault, is opened with `open_image`.

    Raises:
        InvalidInput, TooLarge, UnsupportedMedia: See `open_image`.
    """
    resized = _decode_and_resize_jpeg(body, spec, max_pixels)
    if resized is None:
        image = open_image(body, spec.channels, max_pixels=max_pixels, declared_type=declared_type)
        resized = ResizedImage(resize_image(image, spec), image.size)
    return resized


def decode_image(
    body: bytes, spec: ImageInput, *, max_pixels: int, declared_type: str = ""
) -> NDArray[np.uint8]:
    """Return the pixels that the graph takes, u8 [H, W, C], contiguous; see `decode_and_resize`."""
    return decode_and_resize(body, spec, max_pixels=max_pixels, declared_type=declared_type).pixels


def letterbox(size: tuple[int, int], spec: ImageInput) -> tuple[int, int, int, int]:
    """Return where `resize: letterbox` puts an image in the graph's input.

    Args:
        size: Width and height of the image.
        spec: Width and height of the input.

    Returns:
        Left and top margin, width and height of the scaled image, in input pixels.
    """
    factor = min(spec.width / size[0], spec.height / size[1])
    width, height = max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
    return (spec.width - width) // 2, (spec.height - height) // 2, width, height


def resize_image(image: Image.Image, spec: ImageInput) -> NDArray[np.uint8]:
    """Return an image at the graph's size.

    Args:
        image: Mode `L` or `RGB`, to match `spec.channels`.
        spec: Target size, resize rule and filter.

    Returns:
        u8 [H, W, C], contiguous.
    """
    placement = _place(image.size, spec)
    scaled = np.array(scale_image(image, placement.size, placement.box, spec), dtype=np.uint8)
    return _pad(scaled.reshape(*scaled.shape[:2], spec.channels), placement, spec)


class _Placement(NamedTuple):
    """Where an image goes in the graph's input.

    Attributes:
        box: The part of the image that is used, in its pixels.
        size: Width and height that the part is scaled to.
        corner: Left and top margin, in input pixels.
    """

    box: CropBox
    size: tuple[int, int]
    corner: tuple[int, int] = (0, 0)

    def swap_axes(self) -> _Placement:
        """Return the placement for an image with rows and columns swapped; boxes are always centred."""
        left, top, right, bottom = self.box
        return self._replace(box=(top, left, bottom, right), size=self.size[::-1])


def _place(size: tuple[int, int], spec: ImageInput) -> _Placement:
    whole = (0.0, 0.0, float(size[0]), float(size[1]))
    if spec.resize == "letterbox":
        left, top, width, height = letterbox(size, spec)
        return _Placement(whole, (width, height), (left, top))
    if spec.resize == "stretch":
        return _Placement(whole, (spec.width, spec.height))
    # `crop`: the centre of the source that has the target's aspect ratio. Scaling the whole image first
    # could make a huge one.
    factor = max(spec.width / size[0], spec.height / size[1])
    cropped = min(size[0], spec.width / factor), min(size[1], spec.height / factor)
    x, y = (size[0] - cropped[0]) / 2, (size[1] - cropped[1]) / 2
    return _Placement((x, y, x + cropped[0], y + cropped[1]), (spec.width, spec.height))


def _pad(pixels: NDArray[np.uint8], placement: _Placement, spec: ImageInput) -> NDArray[np.uint8]:
    if spec.resize != "letterbox":
        return pixels
    canvas = np.full((spec.height, spec.width, spec.channels), spec.pad_value, dtype=np.uint8)
    (left, top), (width, height) = placement.corner, placement.size
    canvas[top : top + height, left : left + width] = pixels
    return canvas


def _decode_and_resize_jpeg(body: bytes, spec: ImageInput, max_pixels: int) -> ResizedImage | None:
    """Return the pixels of a plain JPEG file; None for anything that Pillow must open or reject."""
    header = read_jpeg_header(body)
    if header is None:
        return None
    stored = header.width, header.height
    check_size(stored, max_pixels)
    try:
        transposition = _read_jpeg_transposition(body) if header.has_metadata else None
    except DECODE_ERRORS:
        return None
    swapped = transposition in _SWAPS_AXES
    upright = stored[::-1] if swapped else stored
    placement = _place(upright, spec)
    source = placement.swap_axes() if swapped else placement
    reduction = _reduction(source) if uses_antialiasing(spec) else 1
    pixels = decode_jpeg(body, header, reduction, spec.channels)
    if pixels is None:
        return None
    left, top, right, bottom = source.box
    box = (left / reduction, top / reduction, right / reduction, bottom / reduction)
    scaled = scale_pixels(pixels, source.size, box, spec)
    return ResizedImage(_pad(_transpose(scaled, transposition), placement, spec), upright)


def _reduction(source: _Placement) -> int:
    left, top, right, bottom = source.box
    width, height = source.size
    wanted = width * _MIN_OVERSAMPLING, height * _MIN_OVERSAMPLING
    return choose_reduction((right - left, bottom - top), wanted)


def _read_jpeg_transposition(body: bytes) -> Image.Transpose | None:
    with Image.open(BytesIO(body), formats=("JPEG",)) as image:
        return read_transposition(image)


def _transpose(pixels: NDArray[np.uint8], transposition: Image.Transpose | None) -> NDArray[np.uint8]:
    if transposition is None:
        return pixels
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).transpose(transposition)
    return np.array(image).reshape(image.height, image.width, pixels.shape[2])
