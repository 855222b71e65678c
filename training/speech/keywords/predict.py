"""Classify short sounds with an exported version, as a client gets the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from service.repository.golden import Run
from service.repository.manifest import VersionFacts
from service.tasks import Limits, answer_one
from service.tasks.audio.classification import AudioClassification, AudioClassificationParameters
from service.tasks.classification import Classification
from training.core.session import open_version
from training.speech.dataset import SpeechFile


@dataclass(frozen=True, slots=True)
class KeywordPrediction:
    """A sound file and its predicted label.

    Attributes:
        label: The best label.
        score: Its probability.
    """

    file: SpeechFile
    label: str
    score: float


def predict_with_version(
    folder: Path, files: Sequence[SpeechFile], facts: VersionFacts | None = None
) -> list[KeywordPrediction]:
    """Classify sound files, from raw file to the client's answer.

    Args:
        folder: The version's folder.
        files: The files.
        facts: The version's facts; None reads them from the folder.
    """
    task, run = open_version(folder, AudioClassification, facts)
    predictions = []
    for file in files:
        best = answer_to(task, run, file.content, 1)["predictions"][0]
        predictions.append(KeywordPrediction(file, best["label"], best["score"]))
    return predictions


def answer_to(task: AudioClassification, run: Run, content: bytes, top_k: int) -> Classification:
    """Return the client's answer to a sound file; a sound that is too long is cut."""
    parameters = AudioClassificationParameters(top_k=top_k, truncate=True)
    return cast(Classification, answer_one(task, run, content, Limits(), parameters))
