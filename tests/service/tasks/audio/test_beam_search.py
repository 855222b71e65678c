from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from service.errors import ModelRejected
from service.repository.manifest import Transcription
from service.tasks.audio.beam_search import BeamSearch
from service.tasks.audio.ctc_decoding import decode_words
from tests.tiny_speech_models import ARPA, TOKENS, WORDS, speak, tone_log_probs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "words.txt").write_text("\n".join(WORDS) + "\n")
    (tmp_path / "words.arpa").write_text(ARPA)
    return tmp_path


def searcher(folder: Path, **fields: object) -> BeamSearch:
    facts = {"frame_seconds": 0.02, "words": "words.txt", **fields}
    return BeamSearch(folder, Transcription.model_validate(facts), TOKENS)


def found(search: BeamSearch, log_probs: NDArray[np.float32]) -> list[str]:
    path = search.best_path(log_probs)
    assert path.shape == (len(log_probs),)
    return [word.word for word in decode_words(path, log_probs, TOKENS)]


def heard(*words: str, doubt: float = 0.0, seed: int = 0) -> NDArray[np.float32]:
    log_probs = tone_log_probs(speak(words)[0])
    noisy = log_probs + np.random.default_rng(seed).normal(0, doubt, log_probs.shape)
    noisy -= np.log(np.exp(noisy).sum(axis=1, keepdims=True))
    return noisy.astype(np.float32)


def test_words_of_the_list_are_found_with_a_separator_behind_the_last_or_without(folder: Path) -> None:
    search = searcher(folder)
    log_probs = heard("bad", "abba", "head")
    assert found(search, log_probs) == ["bad", "abba", "head"]
    assert found(search, log_probs[:-3]) == ["bad", "abba", "head"]  # cut before the last separator


def test_only_words_of_the_list_are_found(folder: Path) -> None:
    assert set(found(searcher(folder), heard("hed", "baad", "gggg"))) <= set(WORDS)


def test_repeated_letters_stay_two(folder: Path) -> None:
    assert found(searcher(folder), heard("abba")) == ["abba"]


def test_nothing_is_found_in_nothing(folder: Path) -> None:
    search = searcher(folder)
    assert found(search, np.zeros((0, len(TOKENS)), dtype=np.float32)) == []
    blank = np.full((50, len(TOKENS)), -20.0, dtype=np.float32)
    blank[:, 0] = 0.0
    assert found(search, blank) == []


def test_a_language_model_decides_between_words_that_sound_alike(folder: Path) -> None:
    log_probs = heard("bad", "dad")
    first = np.flatnonzero(log_probs.argmax(axis=1) == TOKENS.index("d"))[1:]  # the second word's beginning
    frames = [frame for frame in first if frame > 12][:3]
    for frame in frames:  # as likely an h as a d, had is a word too
        log_probs[frame, [TOKENS.index("d"), TOKENS.index("h")]] = np.log((0.45, 0.5))
    assert found(searcher(folder), log_probs) == ["bad", "had"]
    with_model = searcher(folder, language_model="words.arpa", language_model_weight=2.0)
    assert found(with_model, log_probs) == ["bad", "dad"]
    fields = {"frame_seconds": 0.02, "words": "words.txt", "language_model": "words.arpa"}
    ignored = Transcription.model_validate({**fields, "language_model_weight": 0.0})
    assert found(with_model.with_weights(ignored), log_probs) == ["bad", "had"]
    assert found(with_model, log_probs) == ["bad", "dad"]


def test_long_stretches_are_searched_part_by_part_and_lose_nothing(folder: Path) -> None:
    words = list(np.random.default_rng(0).choice(WORDS, 400))
    log_probs = heard(*words, doubt=0.5)
    assert len(log_probs) > 4000
    assert found(searcher(folder), log_probs) == words


def test_several_threads_search_at_once(folder: Path) -> None:
    search = searcher(folder, language_model="words.arpa", language_model_weight=0.5)
    said = [list(np.random.default_rng(seed).choice(WORDS, 30)) for seed in range(16)]
    with ThreadPoolExecutor(4) as pool:
        results = pool.map(lambda words: found(search, heard(*words)), said)
        assert list(results) == said


@pytest.mark.parametrize(
    ("fields", "files", "reason"),
    [
        ({"words": "none.txt"}, {}, "none.txt cannot be read"),
        ({}, {"words.txt": "bad\nqueue\n"}, "'queue' has the letter 'q'"),
        ({}, {"words.txt": "bad|dad\n"}, "'|'"),
        ({}, {"words.txt": "bad\nbad\n"}, "without duplicates"),
        ({"language_model": "words.arpa"}, {"words.arpa": "no model"}, "words.arpa does not load"),
        ({"language_model": "none.arpa"}, {}, "none.arpa does not load"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    folder: Path, fields: dict[str, object], files: dict[str, str], reason: str
) -> None:
    for name, content in files.items():
        (folder / name).write_text(content)
    with pytest.raises(ModelRejected) as caught:
        searcher(folder, **fields)
    assert reason in str(caught.value)


def test_a_missing_library_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flashlight.lib.text", None)
    with pytest.raises(ModelRejected, match="flashlight-text"):
        searcher(folder)
