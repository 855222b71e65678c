from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.training.speech.synthesisers import hum
from training.speech.synthetic import corpus
from training.speech.synthetic.corpus import corpus_folder, synthesize_corpus
from training.speech.synthetic.synthesis import SpeechRequest
from training.speech.synthetic.voices import Prosody, Voice

RATE = 8000
ORDERS = [SpeechRequest("a" * (1 + number % 5), Voice("flite", "slt"), Prosody()) for number in range(23)]
TEXTS = [f"text {number}" for number in range(23)]


class Speaker:
    """Hums, counts what it was asked for, and fails once after so many sentences."""

    def __init__(self, until: int = 10**9) -> None:
        self.spoken, self._until = 0, until

    def __call__(self, orders: Sequence[SpeechRequest], sample_rate: int) -> list[NDArray[np.int16]]:
        if self.spoken + len(orders) > self._until:
            self._until = 10**9
            raise KeyboardInterrupt
        self.spoken += len(orders)
        return hum(orders, sample_rate)


@pytest.fixture
def speaker(monkeypatch: pytest.MonkeyPatch) -> Speaker:
    made = Speaker(until=12)
    monkeypatch.setattr(corpus, "_PART", 5)
    monkeypatch.setattr(corpus, "synthesize", made)
    return made


def test_speaking_that_was_cut_off_goes_on_where_it_was(speaker: Speaker, tmp_path: Path) -> None:
    folder = corpus_folder(tmp_path, "spoken", ORDERS, RATE)
    with pytest.raises(KeyboardInterrupt):
        synthesize_corpus(folder, ORDERS, TEXTS, RATE)
    assert speaker.spoken == 10
    spoken = synthesize_corpus(folder, ORDERS, TEXTS, RATE)
    assert speaker.spoken == len(ORDERS)
    for number, sound in enumerate(hum(ORDERS, RATE)):
        assert np.array_equal(spoken.utterance(number), sound)
    assert list(spoken.texts) == TEXTS and set(spoken.voices) == {"flite:slt"}


def test_what_is_kept_is_not_spoken_again(speaker: Speaker, tmp_path: Path) -> None:
    folder = corpus_folder(tmp_path, "spoken", ORDERS[:10], RATE)
    first = synthesize_corpus(folder, ORDERS[:10], TEXTS[:10], RATE)
    again = synthesize_corpus(folder, ORDERS[:10], TEXTS[:10], RATE)
    assert speaker.spoken == 10
    assert np.array_equal(first.samples, again.samples) and list(again.texts) == TEXTS[:10]
    assert sorted(file.name for file in folder.iterdir()) == ["index.json", "offsets.npy", "samples.npy"]


def test_utterances_can_be_placed_by_number(speaker: Speaker, tmp_path: Path) -> None:
    spoken = synthesize_corpus(
        tmp_path / "words", ORDERS[:7], TEXTS[:7], RATE, lambda number, sound: np.full(number, 3, np.int16)
    )
    assert [len(spoken.utterance(number)) for number in range(7)] == list(range(7))


def test_other_orders_or_rates_are_kept_elsewhere(tmp_path: Path) -> None:
    other = [*ORDERS[:-1], SpeechRequest("a", Voice("flite", "slt"), Prosody(speed=1.1))]
    folders = {
        corpus_folder(tmp_path, "spoken", ORDERS, RATE),
        corpus_folder(tmp_path, "spoken", ORDERS, 16_000),
        corpus_folder(tmp_path, "spoken", other, RATE),
        corpus_folder(tmp_path, "words", ORDERS, RATE),
    }
    assert len(folders) == 4
    assert corpus_folder(tmp_path, "spoken", list(ORDERS), RATE) in folders
