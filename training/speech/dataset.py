"""What speech is learnt from and measured on, whatever its source."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class SpokenSet:
    """Utterances to learn from, one behind the other.

    Attributes:
        samples: i16 [S], at the recipe's sample rate; may be a memory-mapped file.
        offsets: i64 [N + 1]; utterance n is `samples[offsets[n]:offsets[n + 1]]`.
        texts: N transcripts, or labels.
        voices: N names of who speaks.
        too_long: How many more there were, too long for the graph.
    """

    samples: NDArray[np.int16]
    offsets: NDArray[np.int64]
    texts: Sequence[str]
    voices: Sequence[str]
    too_long: int = 0

    def __len__(self) -> int:
        """Count the utterances."""
        return len(self.texts)

    @property
    def description(self) -> str:
        """How many there are, for people."""
        return f"{len(self)} sounds" + (f" ({self.too_long} more too long)" if self.too_long else "")

    def utterance(self, number: int) -> NDArray[np.int16]:
        """Give the samples of one utterance: i16 [T]."""
        return self.samples[self.offsets[number] : self.offsets[number + 1]]


@dataclass(frozen=True, slots=True)
class SpokenFile:
    """A sound file to measure on.

    Attributes:
        name: Of the file.
        content: The file, WAV or FLAC or whatever the source has.
        text: What is said, or the label.
        traits: What is notable, as `kind: value`, for figures by slice: `voice: …`, `condition: noisy`.
    """

    name: str
    content: bytes
    text: str
    traits: tuple[str, ...] = ()


def golden_name(number: int, file: SpokenFile, text: str) -> str:
    """Name a file that is published with a model: a number, the first words of what is in it, its ending."""
    told = "-".join(re.findall("[a-z0-9]+", text.lower())[:5])
    return f"{number:02d}-{told or 'sound'}{Path(file.name).suffix.lower()}"


class SpeechSource(Protocol):
    """Where speech comes from.

    Attributes:
        description: What it is, in a sentence, for people and provenance.
        split: How the parts were drawn.
    """

    description: str
    split: str

    def training_set(self) -> SpokenSet:
        """Give the utterances to learn from."""

    def validation_files(self) -> list[SpokenFile]:
        """Give the files to stop by."""

    def held_out_files(self) -> list[SpokenFile]:
        """Give the test part."""
