"""What a model takes short sounds for: by an exported version, or by PyTorch, as a client gets it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from service.repository.manifest import VERSION_FILE, VersionFacts, read
from service.tasks import Limits, answer_one
from service.tasks.audio.classification import AudioClassification, AudioClassificationParameters
from service.tasks.classification import Classification
from training.core.session import open_graph
from training.speech.dataset import SpokenFile
from training.speech.export import Run


@dataclass(frozen=True, slots=True)
class Heard:
    """A sound file and what it was taken for.

    Attributes:
        label: The best one.
        score: Its probability.
    """

    file: SpokenFile
    label: str
    score: float


def heard_by_version(
    folder: Path, files: Sequence[SpokenFile], facts: VersionFacts | None = None
) -> list[Heard]:
    """Classify sound files with an exported version, from raw file to the client's answer.

    Args:
        folder: The version's folder.
        files: What to answer.
        facts: The version's facts; None reads them from the folder.
    """
    facts = facts or read(folder / VERSION_FILE, VersionFacts)
    task = AudioClassification(folder, facts)
    session = open_graph(folder, facts)
    heard = []
    for file in files:
        best = answer_to(task, session.run, file.content, 1)["predictions"][0]
        heard.append(Heard(file, best["label"], best["score"]))
    return heard


def answer_to(task: AudioClassification, run: Run, content: bytes, top_k: int) -> Classification:
    """Give the client's answer to a sound file; what is too long is cut."""
    parameters = AudioClassificationParameters(top_k=top_k, truncate=True)
    return cast(Classification, answer_one(task, run, content, Limits(), parameters))
