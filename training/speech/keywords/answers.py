"""What a model takes short sounds for: by an exported version, or by PyTorch, as a client gets it.

Letters in shapes: `N` batch, `T` samples, `K` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from service.manifest import VERSION_FILE, VersionFacts, read
from service.tasks import Limits, answer_one
from service.tasks.audio import AudioClassification, AudioClassificationParameters
from service.tasks.classification import Classification
from training.measured_graph import open_graph
from training.networks.sound_classifier import SoundClassifier
from training.speech.recognition.answers import Arrays, Run
from training.speech.utterances import SpokenFile


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


def run_by_torch(network: SoundClassifier) -> Run:
    """Run PyTorch in place of the exported graph: `audio` f32 [N, T], `lengths` i64 [N]."""

    def run(inputs: Arrays) -> Arrays:
        with torch.inference_mode():
            probabilities = network(*(torch.from_numpy(inputs[name]) for name in ("audio", "lengths")))
        return {"probabilities": probabilities.numpy()}

    return run
