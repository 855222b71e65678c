"""The task `audio-classification`: short recordings in, labels with probabilities out.

The whole recording gets one set of labels. The spectrum is computed by the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, cast

from pydantic import BaseModel, Field

from service.errors import ModelRejected
from service.repository.manifest import AudioInput, VersionFacts
from service.tasks.audio.waveform import AudioSegment, decode_audio
from service.tasks.base64_file import decode_base64_file
from service.tasks.classification import Classification, ClassificationParameters, Classifier
from service.tasks.task import Decoded, Limits, Raw, StatedSeconds


class AudioClassificationParameters(ClassificationParameters):
    """Parameters of audio classification.

    Attributes:
        truncate: Cut a recording that is too long and mark the result, instead of refusing it.
    """

    truncate: Annotated[bool, Field(description="Cut long recordings, and say so, instead of refusing.")] = (
        False
    )


class AudioClassification(Classifier):
    """`audio-classification` for one version."""

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
        self.quick_size = 0  # decoding a second of audio takes longer than waking a thread

    @staticmethod
    def from_json(value: object) -> Raw:
        """Return the bytes of a base64 file."""
        return decode_base64_file(value, "an audio file")

    def decode(self, raw: Raw, limits: Limits, parameters: BaseModel, declared_type: str = "") -> Decoded:
        """Return one recording as one segment; it costs its samples.

        Raises:
            TooLarge: The recording is longer than the graph takes in one run.
        """
        waveform = decode_audio(
            raw.encode() if isinstance(raw, str) else raw,
            self._spec.sample_rate,
            max_seconds=min(limits.max_audio_seconds, self._spec.max_seconds),
            truncate=cast(AudioClassificationParameters, parameters).truncate,
            declared_type=declared_type,
        )
        min_size = int(self._spec.min_seconds * self._spec.sample_rate)
        segment = AudioSegment(waveform.samples, min_size)
        return Decoded((segment,), (segment.size,), {"truncated": waveform.truncated})
