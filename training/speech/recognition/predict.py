"""What a speech model hears in sound files: by an exported version, or by PyTorch, as a client gets it.

Letters in shapes: `F` frames, `V` tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from service.repository.manifest import VERSION_FILE, VersionFacts, read
from service.tasks import Decoded, Limits
from service.tasks.audio.speech_recognition import SpeechParameters, SpeechRecognition, Transcript
from training.core.session import open_graph
from training.speech.dataset import SpokenFile
from training.speech.export import Arrays, Run

_LETTERS = SpeechParameters(search="greedy")
_DEFAULTS = SpeechParameters()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote down.

    Attributes:
        text: Searched with the word list, if the model has one.
        letters: Letter by letter, without it.
        confidences: Of the words of `text`.
    """

    text: str
    letters: str
    confidences: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Listened:
    """A sound file that went through the network; what is left is the search for words.

    Attributes:
        outputs: Log probabilities f32 [F, V] and frames, one for each stretch of the recording.
    """

    decoded: Decoded
    outputs: tuple[Arrays, ...]


def answers_of_version(
    folder: Path, files: Sequence[SpokenFile], facts: VersionFacts | None = None
) -> list[Answer]:
    """Write down what an exported version hears, from raw file to the client's answer.

    Args:
        folder: The version's folder.
        files: What to answer.
        facts: The version's facts; None reads them from the folder.
    """
    facts = facts or read(folder / VERSION_FILE, VersionFacts)
    task = SpeechRecognition(folder, facts)
    session = open_graph(folder, facts)
    return [answer_of(task, listen(task, session.run, file.content)) for file in files]


def listen(task: SpeechRecognition, run: Run, content: bytes) -> Listened:
    """Decode a sound file and send it through a network."""
    decoded = task.decode(content, Limits(), _DEFAULTS)
    outputs = []
    for part in decoded.parts:
        given = run({name: part[name][np.newaxis] for name in task.inputs})
        outputs.append({name: array[0] for name, array in given.items()})
    return Listened(decoded, tuple(outputs))


def answer_of(task: SpeechRecognition, listened: Listened) -> Answer:
    """Search what the network heard, with the word list and without."""
    found = transcript_of(task, listened)
    letters = cast(Transcript, task.answer(listened.outputs, listened.decoded, _LETTERS))
    return Answer(found["text"], letters["text"], tuple(word["confidence"] for word in found["words"]))


def transcript_of(task: SpeechRecognition, listened: Listened) -> Transcript:
    """Give the client's answer."""
    return cast(Transcript, task.answer(listened.outputs, listened.decoded, _DEFAULTS))
