"""Short sounds -> labels: one word, one noise, one label for the whole.

Sits before and after the queue of sound classification. The spectrum is a node of the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, cast

from pydantic import BaseModel, Field

from service.errors import InvalidInput, ModelRejected
from service.repository.manifest import AudioInput, VersionFacts
from service.tasks.audio.waveform import SoundPart, read_sound
from service.tasks.classification import Classification, ClassificationParameters, Classifier
from service.tasks.image.preprocessing import read_base64
from service.tasks.task import Decoded, Limits, Raw, StatedSeconds


class AudioClassificationParameters(ClassificationParameters):
    """Parameters of sound classification.

    Attributes:
        truncate: Cut a sound that is too long, and say so, instead of refusing it.
    """

    truncate: Annotated[bool, Field(description="Cut long sounds, and say so, instead of refusing.")] = False


class AudioClassification(Classifier):
    """`audio-classification` for one version: sounds in, labels with probabilities out."""

    name: ClassVar[str] = "audio-classification"
    parameters: ClassVar[type[BaseModel]] = AudioClassificationParameters
    media_type: ClassVar[str] = "audio/*"
    inputs: ClassVar[Mapping[str, str]] = {"audio": "float32", "lengths": "int64"}
    outputs: ClassVar[Mapping[str, str]] = {"probabilities": "float32"}
    result: ClassVar[type] = Classification
    stated_seconds: ClassVar[StatedSeconds | None] = None

    def __init__(self, folder: Path, facts: VersionFacts) -> None:
        super().__init__(folder, facts)
        if not isinstance(facts.input, AudioInput):
            raise ModelRejected(f"version.yaml says input kind {facts.input.kind}, {self.name} needs audio")
        self._spec = facts.input
        self.quick_size = 0  # decoding a second of sound takes longer than waking a thread

    @staticmethod
    def from_json(value: object) -> Raw:
        """Decode one base64 file, with or without a `data:` prefix."""
        return read_json_sound(value)

    def decode(self, raw: Raw, limits: Limits, parameters: BaseModel, declared_type: str = "") -> Decoded:
        """Decode one sound; it costs its samples. It must not be longer than the graph takes at once."""
        sound = read_sound(
            raw.encode() if isinstance(raw, str) else raw,
            self._spec.sample_rate,
            max_seconds=min(limits.max_audio_seconds, self._spec.max_seconds),
            truncate=cast(AudioClassificationParameters, parameters).truncate,
            declared_type=declared_type,
        )
        part = SoundPart(sound.samples, least=int(self._spec.min_seconds * self._spec.sample_rate))
        return Decoded((part,), (part.size,), {"truncated": sound.truncated})


def read_json_sound(value: object) -> bytes:
    """Decode one base64 sound file out of JSON.

    Raises:
        InvalidInput: It is something else.
    """
    if not isinstance(value, str):
        raise InvalidInput("must be a sound file as a base64 string")
    return read_base64(value)
