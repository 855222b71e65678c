"""Golden cases of a classifier of short sounds: small files and what PyTorch makes of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from service.manifest import GOLDEN_CASES_FILE, GoldenCase, GoldenCases, write
from service.tasks.audio import AudioClassification
from service.tasks.classification import Classification
from training.errors import ExportFailed
from training.speech.keywords.answers import answer_to
from training.speech.recognition.answers import Run
from training.speech.utterances import SpokenFile

_GOLDEN = 8
_ALWAYS = ("silence", "unknown")
_LARGEST_BYTES = 60_000
_TOP = 3
_TOLERANCE = 0.02  # of a score


@dataclass(frozen=True, slots=True)
class GoldenSound:
    """A sound file to publish with the model, and the answer that PyTorch gives for it."""

    name: str
    content: bytes
    answer: Classification


def choose_golden_sounds(
    task: AudioClassification, run: Run, files: Sequence[SpokenFile]
) -> list[GoldenSound]:
    """Choose the surest files of some labels, each by another voice or in another condition.

    Args:
        task: Decodes and answers.
        run: PyTorch.
        files: To choose from; the test part stays unseen.

    Raises:
        ExportFailed: The network answers no file rightly.
    """
    small = [file for file in files if len(file.content) <= _LARGEST_BYTES] or list(files)
    ranked = []
    for file in small:
        answer = answer_to(task, run, file.content, _TOP)
        best = answer["predictions"][0]
        if best["label"] == file.text:
            ranked.append((best["score"], file, answer))
    if not ranked:
        raise ExportFailed(
            "the network answers no validation file rightly: train it first. Nothing was written"
        )
    # Silence and other words first of all; then files whose kind was not met yet.
    ranked.sort(key=lambda row: (row[1].text not in _ALWAYS, -row[0]))
    chosen: list[tuple[SpokenFile, Classification]] = []
    labels: set[str] = set()
    kinds: set[tuple[str, ...]] = set()
    for _, file, answer in ranked:
        if file.text not in labels and file.traits not in kinds:
            labels.add(file.text)
            kinds.add(file.traits)
            chosen.append((file, answer))
    return [
        GoldenSound(_name(number, file), file.content, answer)
        for number, (file, answer) in enumerate(chosen[:_GOLDEN], start=1)
    ]


def write_golden_sounds(folder: Path, golden: Sequence[GoldenSound]) -> None:
    """Write raw files and answers into a version's folder."""
    (folder / GOLDEN_CASES_FILE).parent.mkdir(exist_ok=True)
    for case in golden:
        (folder / "golden" / case.name).write_bytes(case.content)
    cases = [GoldenCase(file=case.name, answer=dict(case.answer), tolerance=_TOLERANCE) for case in golden]
    write(folder / GOLDEN_CASES_FILE, GoldenCases(cases=tuple(cases)))


def _name(number: int, file: SpokenFile) -> str:
    told = re.sub(r"[^A-Za-z0-9]+", "-", file.text).strip("-").lower()
    return f"{number:02d}-{told or 'sound'}{Path(file.name).suffix.lower()}"
