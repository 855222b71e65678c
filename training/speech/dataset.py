"""Speech data for training and evaluation, of any source."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class SpeechTrainingSet:
    """Utterances for training, concatenated.

    Attributes:
        samples: i16 [S], at the recipe's sample rate; may be a memory-mapped file.
        offsets: i64 [N + 1]; utterance n is `samples[offsets[n]:offsets[n + 1]]`.
        texts: N transcripts or labels.
        voices: N names of speakers.
        too_long: Number of further utterances that are too long for the graph.
    """

    samples: NDArray[np.int16]
    offsets: NDArray[np.int64]
    texts: Sequence[str]
    voices: Sequence[str]
    too_long: int = 0

    def __len__(self) -> int:
        """Return the number of utterances."""
        return len(self.texts)

    @property
    def description(self) -> str:
        """The number of utterances, for people."""
        return f"{len(self)} sounds" + (f" ({self.too_long} more too long)" if self.too_long else "")

    def utterance(self, number: int) -> NDArray[np.int16]:
        """Return the samples of one utterance: i16 [T]."""
        return self.samples[self.offsets[number] : self.offsets[number + 1]]


@dataclass(frozen=True, slots=True)
class SpeechFile:
    """A sound file for evaluation.

    Attributes:
        name: Name of the file.
        content: The file: WAV, FLAC or another format of the source.
        text: The transcript or the label.
        traits: Properties as `kind: value`, for metrics by slice: `voice: …`, `condition: noisy`.
    """

    name: str
    content: bytes
    text: str
    traits: tuple[str, ...] = ()


def golden_file_name(number: int, file: SpeechFile, text: str) -> str:
    """Return the name of a golden file: a number, the first words of the text, the suffix."""
    words = "-".join(re.findall("[a-z0-9]+", text.lower())[:5])
    return f"{number:02d}-{words or 'sound'}{Path(file.name).suffix.lower()}"


class SpeechSource(Protocol):
    """A source of speech data.

    Attributes:
        description: What the data are, in a sentence, for people and provenance.
        split: How the parts were chosen.
    """

    description: str
    split: str

    def training_set(self) -> SpeechTrainingSet:
        """Return the training part."""

    def validation_files(self) -> list[SpeechFile]:
        """Return the validation part."""

    def held_out_files(self) -> list[SpeechFile]:
        """Return the test part."""
