"""Transcribe sound files with an exported version, or with PyTorch, as a client gets the answer.

Letters in shapes: `F` frames, `V` tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from service.repository.golden import Run
from service.repository.manifest import VersionFacts
from service.tasks import Decoded, Limits
from service.tasks.audio.speech_recognition import SpeechParameters, SpeechRecognition, Transcript
from training.core.export import Arrays
from training.core.session import open_version
from training.speech.dataset import SpeechFile

_GREEDY = SpeechParameters(search="greedy")
_DEFAULTS = SpeechParameters()


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """The transcript of a sound file.

    Attributes:
        text: From the search with the word list, if the model has one.
        letters: From greedy decoding, without a word list.
        confidences: Of the words of `text`.
    """

    text: str
    letters: str
    confidences: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Encoded:
    """The network's outputs for a sound file, before the search for words.

    Attributes:
        decoded: The file's samples.
        outputs: Log probabilities f32 [F, V] and frames, one for each section of the recording.
    """

    decoded: Decoded
    outputs: tuple[Arrays, ...]


def predict_with_version(
    folder: Path, files: Sequence[SpeechFile], facts: VersionFacts | None = None
) -> list[Hypothesis]:
    """Transcribe with an exported version, from raw file to the client's answer.

    Args:
        folder: The version's folder.
        files: The files.
        facts: The version's facts; None reads them from the folder.
    """
    task, run = open_version(folder, SpeechRecognition, facts)
    return [transcribe(task, encode(task, run, file.content)) for file in files]


def encode(task: SpeechRecognition, run: Run, content: bytes) -> Encoded:
    """Decode a sound file and run a network on it."""
    decoded = task.decode(content, Limits(), _DEFAULTS)
    outputs = []
    for part in decoded.parts:
        given = run({name: part[name][np.newaxis] for name in task.inputs})
        outputs.append({name: array[0] for name, array in given.items()})
    return Encoded(decoded, tuple(outputs))


def transcribe(task: SpeechRecognition, encoded: Encoded) -> Hypothesis:
    """Return the transcript with the word list, and the one of greedy decoding."""
    found = transcript_of(task, encoded)
    letters = cast(Transcript, task.answer(encoded.outputs, encoded.decoded, _GREEDY))
    return Hypothesis(found["text"], letters["text"], tuple(word["confidence"] for word in found["words"]))


def transcript_of(task: SpeechRecognition, encoded: Encoded) -> Transcript:
    """Return the client's answer."""
    return cast(Transcript, task.answer(encoded.outputs, encoded.decoded, _DEFAULTS))
