"""Golden cases of a speech model: small recordings, arrays, and what PyTorch makes of them.

Letters in shapes: `N` items, `T` samples.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.manifest import GOLDEN_CASES_FILE, GoldenCase, GoldenCases, write
from service.tasks.speech import SpeechRecognition, Transcript
from training.errors import ExportFailed
from training.speech.recognition.answers import Arrays, Run, listen, transcript_of
from training.speech.recognition.letters import plain
from training.speech.utterances import SpokenFile

_GOLDEN = 6
_LARGEST_BYTES = 120_000  # of a golden file: a model folder is kept in a repository
_CONFIDENCE_TOLERANCE = 0.05
_ARRAY_SECONDS = 1.5


@dataclass(frozen=True, slots=True)
class GoldenSpeech:
    """A recording to publish with the model, and the answer that PyTorch gives for it."""

    name: str
    content: bytes
    answer: Transcript


def choose_golden_speech(
    task: SpeechRecognition, run: Run, files: Sequence[SpokenFile]
) -> list[GoldenSpeech]:
    """Choose small files that are answered rightly and surely, as different as possible.

    Args:
        task: Decodes and searches.
        run: PyTorch.
        files: To choose from; the test part stays unseen.

    Raises:
        ExportFailed: The network answers no file rightly.
    """
    small = [file for file in files if len(file.content) <= _LARGEST_BYTES] or list(files)
    ranked = []
    for file in small:
        answer = transcript_of(task, listen(task, run, file.content))
        if answer["text"] and answer["text"] == plain(file.text):
            ranked.append((min(word["confidence"] for word in answer["words"]), file, answer))
    ranked.sort(key=lambda row: -row[0])
    chosen: dict[str, list[tuple[SpokenFile, Transcript]]] = {}
    for _, file, answer in ranked:
        chosen.setdefault(_first_of(file, "condition") + _first_of(file, "kind"), []).append((file, answer))
    if not chosen:
        raise ExportFailed(
            "the network answers no validation file rightly: train it first. Nothing was written"
        )
    # Round and round the kinds, the surest of each first, until there are enough.
    most = max(len(rows) for rows in chosen.values())
    dealt = [rows[place] for place in range(most) for rows in chosen.values() if place < len(rows)]
    return [
        GoldenSpeech(_name(number, file, answer["text"]), file.content, answer)
        for number, (file, answer) in enumerate(dealt[:_GOLDEN], start=1)
    ]


def write_golden_speech(folder: Path, golden: Sequence[GoldenSpeech]) -> None:
    """Write raw files and answers into a version's folder."""
    (folder / GOLDEN_CASES_FILE).parent.mkdir(exist_ok=True)
    for case in golden:
        (folder / "golden" / case.name).write_bytes(case.content)
    cases = [
        GoldenCase(file=case.name, answer=dict(case.answer), tolerance=_CONFIDENCE_TOLERANCE)
        for case in golden
    ]
    write(folder / GOLDEN_CASES_FILE, GoldenCases(cases=tuple(cases)))


def golden_sounds(sounds: Sequence[NDArray[np.int16]], sample_rate: int) -> Arrays:
    """Put sounds that nobody sends beside pieces of real ones.

    Args:
        sounds: i16 [T] each.
        sample_rate: Samples a second.

    Returns:
        `audio` f32 [N, T] and `lengths` i64 [N]: real ones, silence, full scale, a tone, one sample.
    """
    most = round(_ARRAY_SECONDS * sample_rate)
    tone = np.sin(2 * np.pi * 440 * np.arange(most // 3) / sample_rate) * 8000
    rows = [sound[:most] for sound in sounds]
    rows += [
        np.zeros(most // 2, dtype=np.int16),
        np.full(most // 4, 32767, dtype=np.int16),
        tone.astype(np.int16),
        np.array([-32768], dtype=np.int16),
    ]
    return stacked(rows)


def stacked(sounds: Sequence[NDArray[np.int16]], padding: int = 0) -> Arrays:
    """Put sounds side by side as the service does: `audio` f32 [N, T + padding] and `lengths` i64 [N]."""
    lengths = np.array([len(sound) for sound in sounds], dtype=np.int64)
    audio = np.zeros((len(sounds), int(lengths.max()) + padding), dtype=np.float32)
    for row, sound in zip(audio, sounds, strict=True):
        row[: len(sound)] = sound * np.float32(1 / 32768)
    return {"audio": audio, "lengths": lengths}


def _first_of(file: SpokenFile, kind: str) -> str:
    return next((trait for trait in file.traits if trait.startswith(f"{kind}: ")), "")


def _name(number: int, file: SpokenFile, text: str) -> str:
    told = "-".join(re.sub(r"[^a-z0-9 ]", "", text).split()[:5])
    return f"{number:02d}-{told or 'speech'}{Path(file.name).suffix.lower()}"
