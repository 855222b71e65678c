"""Golden recordings of a speech model: small files and PyTorch's answers to them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from service.repository.golden import Run
from service.repository.manifest import GoldenCase
from service.tasks.audio.speech_recognition import SpeechRecognition, Transcript
from training.core.golden import small_files
from training.core.version_folder import Golden
from training.errors import ExportFailed
from training.speech.dataset import SpeechFile, golden_file_name
from training.speech.recognition.metrics import count_errors
from training.speech.recognition.predict import encode, transcript_of

_GOLDEN = 6
_LARGEST_BYTES = 120_000
_CONFIDENCE_TOLERANCE = 0.05


def choose_golden_speech(task: SpeechRecognition, run: Run, files: Sequence[SpeechFile]) -> Golden:
    """Choose small files of different kinds that are transcribed rightly with high confidence.

    If none is right, files with the fewest errors are chosen: golden files guard that the service answers as
    PyTorch does.

    Args:
        task: The task of the version.
        run: Runs PyTorch.
        files: The validation part.

    Raises:
        ExportFailed: The network finds no word in any file.
    """
    ranked = []
    for file in small_files(files, lambda file: file.content, _LARGEST_BYTES):
        answer = transcript_of(task, encode(task, run, file.content))
        if answer["words"]:
            rate = count_errors(file.text, answer["text"])[0].rate
            ranked.append((rate, -min(word["confidence"] for word in answer["words"]), file, answer))
    if not ranked:
        raise ExportFailed("the network hears no word in any validation file: train it first")
    ranked.sort(key=lambda row: row[:2])
    kinds: dict[tuple[str, ...], list[tuple[SpeechFile, Transcript]]] = {}
    for _, _, file, answer in [row for row in ranked if row[0] == 0] or ranked:
        kind = tuple(trait for trait in file.traits if trait.startswith(("condition: ", "kind: ")))
        kinds.setdefault(kind, []).append((file, answer))
    # The best file of each kind, then the second best of each, and so on.
    in_turn = [row for rows in zip_longest(*kinds.values()) for row in rows if row is not None]
    return [
        (
            GoldenCase(
                file=golden_file_name(number, file, answer["text"]),
                answer=dict(answer),
                tolerance=_CONFIDENCE_TOLERANCE,
            ),
            file.content,
        )
        for number, (file, answer) in enumerate(in_turn[:_GOLDEN], start=1)
    ]
