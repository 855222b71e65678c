"""Golden cases of a classifier of short sounds: small files and what a client gets for them, by PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

from service.repository.manifest import GoldenCase
from service.tasks.audio.classification import AudioClassification
from service.tasks.classification import Classification
from training.core.version_folder import Golden
from training.errors import ExportFailed
from training.speech.dataset import SpokenFile, golden_name
from training.speech.export import Run
from training.speech.keywords.predict import answer_to

_GOLDEN = 8
_ALWAYS = ("silence", "unknown")
_LARGEST_BYTES = 60_000
_TOP = 3
_TOLERANCE = 0.02  # of a score


def choose_golden_sounds(task: AudioClassification, run: Run, files: Sequence[SpokenFile]) -> Golden:
    """Choose the surest files of some labels, each by another voice or in another condition if there are any.

    Args:
        task: Decodes and answers.
        run: PyTorch.
        files: To choose from; the test part stays unseen.

    Raises:
        ExportFailed: The network answers no file rightly.
    """
    ranked = []
    for file in [file for file in files if len(file.content) <= _LARGEST_BYTES] or files:
        answer = answer_to(task, run, file.content, _TOP)
        best = answer["predictions"][0]
        if best["label"] == file.text:
            ranked.append((file.text not in _ALWAYS, -best["score"], file, answer))
    if not ranked:
        raise ExportFailed("the network answers no validation file rightly: train it first")
    # Silence and other words first of all; then files whose kind was not met yet, then any.
    ranked.sort(key=lambda row: row[:2])
    chosen: dict[str, tuple[SpokenFile, Classification]] = {}
    kinds: set[tuple[str, ...]] = set()
    for fresh_kind_only in (True, False):
        for _, _, file, answer in ranked:
            if file.text not in chosen and not (fresh_kind_only and file.traits in kinds):
                kinds.add(file.traits)
                chosen[file.text] = file, answer
    return [
        (
            GoldenCase(file=golden_name(number, file, file.text), answer=dict(answer), tolerance=_TOLERANCE),
            file.content,
        )
        for number, (file, answer) in enumerate(list(chosen.values())[:_GOLDEN], start=1)
    ]
