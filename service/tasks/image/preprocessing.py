"""Pictures: any file a person has -> `uint8` pixels of the graph's size.

Sits before the queue of image tasks. Decoding, EXIF rotation, colour and the one resize
happen here; scaling to floats, normalising and softmax are nodes of the graph.

Letters in shapes: `H` height, `W` width, `C` channels (1 grey or 3 RGB).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel

from service.errors import InvalidInput, ModelRejected
from service.repository.manifest import ImageInput, VersionFacts
from service.tasks.classification import Classification, ClassificationParameters, Classifier
from service.tasks.image.image_file import DAMAGE, TURNS, check_size, open_picture, turn_of
from service.tasks.image.jpeg import choose_reduction, decode_jpeg, read_jpeg_header
from service.tasks.image.resizing import averages, scale_picture, scale_pixels
from service.tasks.task import Decoded, Limits, Raw, StatedSeconds

_LYING = frozenset({TURNS[orientation] for orientation in (5, 6, 7, 8)})  # these make rows of columns
_KEPT = 1.2  # a reduced picture keeps this many pixels a side for each that the graph takes


@dataclass(frozen=True, slots=True)
class Fitted:
    """A picture as the graph takes it.

    Attributes:
        pixels: u8 [H, W, C], contiguous.
        size: Width and height of the picture that was sent, upright.
    """

    pixels: NDArray[np.uint8]
    size: tuple[int, int]


def fit_picture(body: bytes, spec: ImageInput, *, max_pixels: int, declared_type: str = "") -> Fitted:
    """Decode a picture file to the pixels that the graph takes, in the cheapest way that shows the same.

    A plain JPEG file is decoded no larger than the graph needs it; everything else, and every file with
    the least fault, goes through `open_picture`.

    Raises:
        InvalidInput, TooLarge, UnsupportedMedia: As `open_picture`.
    """
    fitted = _fit_jpeg(body, spec, max_pixels)
    if fitted is None:
        picture = open_picture(body, spec.channels, max_pixels=max_pixels, declared_type=declared_type)
        fitted = Fitted(resize_image(picture, spec), picture.size)
    return fitted


def decode_image(
    body: bytes, spec: ImageInput, *, max_pixels: int, declared_type: str = ""
) -> NDArray[np.uint8]:
    """Decode a picture file to the pixels that the graph takes; see `fit_picture`.

    Returns:
        u8 [H, W, C], contiguous.

    Raises:
        InvalidInput, TooLarge, UnsupportedMedia: As `open_picture`.
    """
    return fit_picture(body, spec, max_pixels=max_pixels, declared_type=declared_type).pixels


def letterbox(size: tuple[int, int], spec: ImageInput) -> tuple[int, int, int, int]:
    """Place a picture in the graph's input, as `resize: letterbox` does.

    Args:
        size: Width and height of the picture.
        spec: Width and height of the input.

    Returns:
        Left and top margin, width and height of the scaled picture, in input pixels.
    """
    factor = min(spec.width / size[0], spec.height / size[1])
    width, height = max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
    return (spec.width - width) // 2, (spec.height - height) // 2, width, height


def resize_image(picture: Image.Image, spec: ImageInput) -> NDArray[np.uint8]:
    """Bring a picture to the version's size.

    Args:
        picture: Mode `L` or `RGB`, as `spec.channels` says.
        spec: Target size, resize rule and filter.

    Returns:
        u8 [H, W, C], contiguous.
    """
    place = _place(picture.size, spec)
    scaled = np.array(scale_picture(picture, place.size, place.box, spec), dtype=np.uint8)
    return _framed(scaled.reshape(*scaled.shape[:2], spec.channels), place, spec)


class _Place(NamedTuple):
    """Where a picture goes in the graph's input.

    Attributes:
        box: The part that is used: left, top, right and bottom, in the picture's pixels.
        size: Width and height that the part is scaled to.
        corner: Left and top margin, in input pixels.
    """

    box: tuple[float, float, float, float]
    size: tuple[int, int]
    corner: tuple[int, int] = (0, 0)

    def lying(self) -> _Place:
        """Give the place in a picture whose rows are this one's columns: boxes are always in the middle."""
        left, top, right, bottom = self.box
        return self._replace(box=(top, left, bottom, right), size=self.size[::-1])


def _place(size: tuple[int, int], spec: ImageInput) -> _Place:
    whole = (0.0, 0.0, float(size[0]), float(size[1]))
    if spec.resize == "letterbox":
        left, top, width, height = letterbox(size, spec)
        return _Place(whole, (width, height), (left, top))
    if spec.resize == "fit":
        return _Place(whole, (spec.width, spec.height))
    # The middle of the source that has the target's shape; scaling first could make a huge picture.
    factor = max(spec.width / size[0], spec.height / size[1])
    across, down = min(size[0], spec.width / factor), min(size[1], spec.height / factor)
    x, y = (size[0] - across) / 2, (size[1] - down) / 2
    return _Place((x, y, x + across, y + down), (spec.width, spec.height))


def _framed(pixels: NDArray[np.uint8], place: _Place, spec: ImageInput) -> NDArray[np.uint8]:
    if spec.resize != "letterbox":
        return pixels
    canvas = np.full((spec.height, spec.width, spec.channels), spec.pad_value, dtype=np.uint8)
    (left, top), (width, height) = place.corner, place.size
    canvas[top : top + height, left : left + width] = pixels
    return canvas


def _fit_jpeg(body: bytes, spec: ImageInput, max_pixels: int) -> Fitted | None:
    """Decode a plain JPEG file; None leaves it to Pillow, which also finds the words for what is wrong."""
    header = read_jpeg_header(body)
    if header is None:
        return None
    stored = header.width, header.height
    check_size(stored, max_pixels)
    try:
        turn = _turn_of_file(body) if header.has_metadata else None
    except DAMAGE:
        return None
    lies = turn in _LYING
    upright = stored[::-1] if lies else stored
    place = _place(upright, spec)
    source = place.lying() if lies else place
    reduction = _reduction(source) if averages(spec) else 1
    pixels = decode_jpeg(body, header, reduction, spec.channels)
    if pixels is None:
        return None
    left, top, right, bottom = source.box
    box = (left / reduction, top / reduction, right / reduction, bottom / reduction)
    scaled = scale_pixels(pixels, source.size, box, spec)
    return Fitted(_framed(_turned(scaled, turn), place, spec), upright)


def _reduction(source: _Place) -> int:
    left, top, right, bottom = source.box
    width, height = source.size
    return choose_reduction((right - left, bottom - top), (width * _KEPT, height * _KEPT))


def _turn_of_file(body: bytes) -> Image.Transpose | None:
    with Image.open(BytesIO(body), formats=("JPEG",)) as picture:
        return turn_of(picture)


def _turned(pixels: NDArray[np.uint8], turn: Image.Transpose | None) -> NDArray[np.uint8]:
    if turn is None:
        return pixels
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).transpose(turn)
    return np.array(picture).reshape(picture.height, picture.width, pixels.shape[2])


def read_base64(value: object) -> bytes:
    """Decode one base64 file out of JSON, with or without a `data:` prefix.

    Raises:
        InvalidInput: It is something else.
    """
    if not isinstance(value, str):
        raise InvalidInput("must be a picture file as a base64 string")
    encoded = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"is not base64: {error}") from error


class ImageClassification(Classifier):
    """`image-classification` for one version: pictures in, labels with probabilities out."""

    name: ClassVar[str] = "image-classification"
    parameters: ClassVar[type[BaseModel]] = ClassificationParameters
    media_type: ClassVar[str] = "image/*"
    inputs: ClassVar[Mapping[str, str]] = {"image": "uint8"}
    outputs: ClassVar[Mapping[str, str]] = {"probabilities": "float32"}
    result: ClassVar[type] = Classification
    stated_seconds: ClassVar[StatedSeconds | None] = None

    def __init__(self, folder: Path, facts: VersionFacts) -> None:
        super().__init__(folder, facts)
        if not isinstance(facts.input, ImageInput):
            raise ModelRejected(f"version.yaml says input kind {facts.input.kind}, {self.name} needs image")
        self._spec = facts.input
        self.quick_size = 2**14 if self._spec.width * self._spec.height <= 2**12 else 0

    @staticmethod
    def from_json(value: object) -> Raw:
        """Decode one base64 file, with or without a `data:` prefix."""
        return read_base64(value)

    def decode(self, raw: Raw, limits: Limits, parameters: BaseModel, declared_type: str = "") -> Decoded:
        """Decode one picture file to `image` u8 [H, W, C]; every picture costs 1."""
        body = raw.encode() if isinstance(raw, str) else raw
        pixels = decode_image(body, self._spec, max_pixels=limits.max_pixels, declared_type=declared_type)
        return Decoded(({"image": pixels},), (1,))
