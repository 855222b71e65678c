"""Golden cases of a speech model: small recordings and what a client gets for them, by PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

from service.repository.manifest import GoldenCase
from service.tasks.audio.speech_recognition import SpeechRecognition, Transcript
from training.core.version_folder import Golden
from training.errors import ExportFailed
from training.speech.dataset import SpokenFile, golden_name
from training.speech.export import Run
from training.speech.recognition.metrics import errors_of
from training.speech.recognition.predict import listen, transcript_of

_GOLDEN = 6
_LARGEST_BYTES = 120_000  # of a golden file: a model folder is kept in a repository
_CONFIDENCE_TOLERANCE = 0.05


def choose_golden_speech(task: SpeechRecognition, run: Run, files: Sequence[SpokenFile]) -> Golden:
    """Choose small files that are answered rightly and surely, as different as possible.

    Where none is answered rightly, those with the fewest errors will do: what they guard is that the
    service answers as PyTorch does.

    Args:
        task: Decodes and searches.
        run: PyTorch.
        files: To choose from; the test part stays unseen.

    Raises:
        ExportFailed: The network hears no word in any file.
    """
    ranked = []
    for file in [file for file in files if len(file.content) <= _LARGEST_BYTES] or files:
        answer = transcript_of(task, listen(task, run, file.content))
        if answer["words"]:
            rate = errors_of(file.text, answer["text"])[0].rate
            ranked.append((rate, -min(word["confidence"] for word in answer["words"]), file, answer))
    if not ranked:
        raise ExportFailed("the network hears no word in any validation file: train it first")
    ranked.sort(key=lambda row: row[:2])
    kinds: dict[tuple[str, ...], list[tuple[SpokenFile, Transcript]]] = {}
    for _, _, file, answer in [row for row in ranked if row[0] == 0] or ranked:
        kind = tuple(trait for trait in file.traits if trait.startswith(("condition: ", "kind: ")))
        kinds.setdefault(kind, []).append((file, answer))
    # Round and round the kinds, the surest of each first, until there are enough.
    most = max(len(rows) for rows in kinds.values())
    dealt = [rows[place] for place in range(most) for rows in kinds.values() if place < len(rows)]
    return [
        (
            GoldenCase(
                file=golden_name(number, file, answer["text"]),
                answer=dict(answer),
                tolerance=_CONFIDENCE_TOLERANCE,
            ),
            file.content,
        )
        for number, (file, answer) in enumerate(dealt[:_GOLDEN], start=1)
    ]
