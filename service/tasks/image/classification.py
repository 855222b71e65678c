"""The task `image-classification`: images in, labels with probabilities out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel

from service.errors import ModelRejected
from service.repository.manifest import ImageInput, VersionFacts
from service.tasks.base64_file import decode_base64_file
from service.tasks.classification import Classification, ClassificationParameters, Classifier
from service.tasks.image.preprocessing import decode_image
from service.tasks.task import Decoded, Limits, Raw, StatedSeconds

_QUICK_BYTES = 2**14
_QUICK_PIXELS = 2**12  # a resize to more pixels than this is not quick, however small the file


class ImageClassification(Classifier):
    """`image-classification` for one version."""

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
        self.quick_size = _QUICK_BYTES if self._spec.width * self._spec.height <= _QUICK_PIXELS else 0

    @staticmethod
    def from_json(value: object) -> Raw:
        """Return the bytes of a base64 file."""
        return decode_base64_file(value, "an image file")

    def decode(self, raw: Raw, limits: Limits, parameters: BaseModel, declared_type: str = "") -> Decoded:
        """Return `image` u8 [H, W, C] of one image file; every image costs 1."""
        body = raw.encode() if isinstance(raw, str) else raw
        pixels = decode_image(body, self._spec, max_pixels=limits.max_pixels, declared_type=declared_type)
        return Decoded(({"image": pixels},), (1,))
