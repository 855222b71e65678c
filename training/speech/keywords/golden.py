"""Golden sounds of the keyword classifier: small files and PyTorch's answers to them."""

from __future__ import annotations

from collections.abc import Sequence

from service.repository.golden import Run
from service.repository.manifest import GoldenCase
from service.tasks.audio.classification import AudioClassification
from training.core.golden import choose_diverse, small_files
from training.core.version_folder import Golden
from training.errors import ExportFailed
from training.speech.dataset import SpeechFile, golden_file_name
from training.speech.keywords.predict import answer_to

_GOLDEN = 8
_ALWAYS = ("silence", "unknown")
_LARGEST_BYTES = 60_000
_TOP = 3
_TOLERANCE = 0.02  # of a score


def choose_golden_sounds(task: AudioClassification, run: Run, files: Sequence[SpeechFile]) -> Golden:
    """Choose the file with the best right answer of some labels, preferably in different conditions.

    Args:
        task: The task of the version.
        run: Runs PyTorch.
        files: The validation part.

    Raises:
        ExportFailed: The network answers no file rightly.
    """
    ranked = []
    for file in small_files(files, lambda file: file.content, _LARGEST_BYTES):
        answer = answer_to(task, run, file.content, _TOP)
        best = answer["predictions"][0]
        if best["label"] == file.text:
            ranked.append((file.text not in _ALWAYS, -best["score"], file, answer))
    if not ranked:
        raise ExportFailed("the network answers no validation file rightly: train it first")
    ranked.sort(key=lambda row: row[:2])
    chosen = choose_diverse(ranked, lambda row: row[2].text, lambda row: row[2].traits)
    return [
        (
            GoldenCase(
                file=golden_file_name(number, file, file.text), answer=dict(answer), tolerance=_TOLERANCE
            ),
            file.content,
        )
        for number, (_, _, file, answer) in enumerate(chosen[:_GOLDEN], start=1)
    ]
