"""Ten minutes of known sentences and of words at known times, through the shipped model and a real server.

One of the voices that the model never learnt from speaks them. Whole sentences stand between runs of single
words that are placed a fixed pause apart, so that the time of each is known to the sample.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import jiwer
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from tests.end_to_end.server import serving
from training.core.job import newest_version
from training.speech.synthetic.grammar import COMMANDS, draw_sentence
from training.speech.synthetic.synthesis import SpeechRequest, synthesize
from training.speech.synthetic.voices import Prosody, Voice

MODEL = Path(__file__).parents[2] / "models" / "spoken-commands"
RATE = 16_000
SECONDS = 600
VOICE = Voice("espeak", "en-us+f2")
PACE = Prosody(speed=0.9, lead_seconds=0.0, tail_seconds=0.0)
PAUSE_SECONDS = 0.35  # between the words of a run
WORDS_OF_A_RUN = 5
NEAR_SECONDS = 0.2
AUDIBLE = 0.02  # of full scale: from where to where a word can be heard

pytestmark = pytest.mark.skipif(newest_version(MODEL) is None, reason="the model is not in this checkout")


@dataclass(frozen=True)
class Placed:
    """A word or a sentence and where it can be heard, in seconds."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Recording:
    """A FLAC file and what is in it, in order; `words` are those of the runs."""

    file: bytes
    texts: list[str]
    words: list[Placed]


@pytest.fixture(scope="module")
def recording() -> Recording:
    if shutil.which("espeak-ng") is None:
        assert "CI" not in os.environ, "espeak-ng is missing"
        pytest.skip("espeak-ng is missing")
    random = np.random.default_rng(600)
    clips = dict(zip(COMMANDS, _speak(COMMANDS), strict=True))
    # Two seconds and a half apiece, more than enough of them.
    sentences = [draw_sentence(random).text for _ in range(SECONDS // 3)]
    spoken = iter(zip(sentences, _speak(sentences), strict=True))
    parts: list[NDArray[np.int16]] = []
    texts: list[str] = []
    words: list[Placed] = []
    at = 0

    def add(samples: NDArray[np.int16], pause_seconds: float) -> int:
        nonlocal at
        start = at
        parts.extend([samples, np.zeros(round(pause_seconds * RATE), np.int16)])
        at += len(samples) + len(parts[-1])
        return start

    while at < SECONDS * RATE:
        text, samples = next(spoken)
        add(samples, random.uniform(0.5, 1.2))
        texts.append(text)
        chosen = [COMMANDS[i] for i in random.integers(0, len(COMMANDS), WORDS_OF_A_RUN)]
        for word in chosen:
            start = add(clips[word], PAUSE_SECONDS)
            words.append(Placed(word, *_heard(clips[word], start)))
        add(np.zeros(0, np.int16), random.uniform(0.3, 1.0))
        texts.append(" ".join(chosen))
    file = BytesIO()
    soundfile.write(file, np.concatenate(parts), RATE, format="FLAC")
    return Recording(file.getvalue(), texts, words)


@pytest.fixture(scope="module")
def transcript(recording: Recording) -> Iterator[dict[str, Any]]:
    with (
        serving(MODEL.parent) as server,
        httpx.Client(base_url=server.url, timeout=300) as client,
    ):
        response = client.post("/v1/speech-recognition", content=recording.file)
        assert response.status_code == 200, response.text
        yield response.json()["results"][0]


def test_ten_minutes_are_written_down_whole_and_in_order(
    recording: Recording, transcript: dict[str, Any]
) -> None:
    assert transcript["duration"] >= SECONDS
    compared = jiwer.process_words(" ".join(recording.texts), transcript["text"])
    said = sum(len(text.split()) for text in recording.texts)
    assert said > 600
    # A piece that is lost, said twice or out of order would be tens of words.
    assert compared.wer <= 0.05
    assert compared.deletions <= 0.02 * said
    assert compared.insertions <= 0.02 * said


def test_words_stand_where_they_were_placed(recording: Recording, transcript: dict[str, Any]) -> None:
    heard = [Placed(word["word"], word["start"], word["end"]) for word in transcript["words"]]
    assert all(before.end <= behind.start for before, behind in itertools.pairwise(heard))
    off = []
    for word in recording.words:
        same = [other for other in heard if other.text == word.text]
        nearest = min(same, key=lambda other: abs(other.start - word.start), default=None)
        if nearest is None or abs(nearest.start - word.start) > 1:
            continue  # misheard; how many of those is the other test's question
        off += [abs(nearest.start - word.start), abs(nearest.end - word.end)]
    assert len(off) >= 2 * 0.9 * len(recording.words)
    assert max(off) <= NEAR_SECONDS


def _speak(texts: tuple[str, ...] | list[str]) -> list[NDArray[np.int16]]:
    return synthesize([SpeechRequest(text, VOICE, PACE) for text in texts], RATE)


def _heard(samples: NDArray[np.int16], start: int) -> tuple[float, float]:
    loud = np.flatnonzero(np.abs(samples.astype(np.float32)) > AUDIBLE * 32768)
    return (start + int(loud[0])) / RATE, (start + int(loud[-1])) / RATE
