from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from service.errors import ModelRejected
from service.tasks.audio.ctc_decoding import best_path, decode_words, mark_pauses, read_lines, read_tokens

TOKENS = ("_", "|", "a", "b", "c")


def path_of(letters: str) -> NDArray[np.int64]:
    return np.array([TOKENS.index(letter) for letter in letters], dtype=np.int64)


def even(frames: int, probability: float = 0.5) -> NDArray[np.float32]:
    return np.full((frames, len(TOKENS)), np.log(probability), dtype=np.float32)


def words(letters: str) -> list[tuple[str, int, int]]:
    path = path_of(letters)
    return [(word.word, word.start, word.end) for word in decode_words(path, even(len(path)), TOKENS)]


@pytest.mark.parametrize(
    ("letters", "expected"),
    [
        ("", []),
        ("___", []),
        ("||_|", []),
        ("ab", [("ab", 0, 2)]),
        ("__aab__|__c_", [("ab", 2, 5), ("c", 10, 11)]),
        ("a_a", [("aa", 0, 3)]),
        ("aa", [("a", 0, 2)]),
        ("a|a", [("a", 0, 1), ("a", 2, 3)]),
        ("|a_|_|b|", [("a", 1, 2), ("b", 6, 7)]),
    ],
)
def test_repeats_are_one_letter_blanks_are_none_and_separators_end_words(
    letters: str, expected: list[tuple[str, int, int]]
) -> None:
    assert words(letters) == expected


@pytest.mark.parametrize(
    ("letters", "expected"),
    [
        ("ab____ba", ["ab", "ba"]),
        ("ab___ba", ["abba"]),
        ("ab__|__ba", ["ab", "ba"]),
        ("____ab____", ["ab"]),
        ("a____a____a", ["a", "a", "a"]),
        ("____", []),
        ("", []),
    ],
)
def test_a_word_ends_in_a_long_pause(letters: str, expected: list[str]) -> None:
    path = path_of(letters)
    log_probs = np.full((len(path), len(TOKENS)), -9.0, dtype=np.float32)
    log_probs[np.arange(len(path)), path] = -0.01
    before = log_probs.copy()
    marked = mark_pauses(log_probs, 1, 4)
    assert [word.word for word in decode_words(best_path(marked), marked, TOKENS)] == expected
    assert np.array_equal(log_probs, before)


def test_confidence_is_the_geometric_mean_over_letters() -> None:
    log_probs = even(4, 0.1)
    path = path_of("aab_")
    log_probs[0, 2], log_probs[1, 2], log_probs[2, 3] = np.log((0.4, 0.9, 0.4))
    (word,) = decode_words(path, log_probs, TOKENS)
    assert (word.word, word.start, word.end) == ("ab", 0, 3)
    assert word.confidence == pytest.approx(0.6)


def test_no_confidence_is_above_one() -> None:
    (word,) = decode_words(path_of("a"), np.full((1, 5), 1e-3, dtype=np.float32), TOKENS)
    assert word.confidence == 1.0


def test_the_best_path_has_the_most_probable_token_of_every_frame() -> None:
    log_probs = np.log(np.array([[0.2, 0.7, 0.1], [0.5, 0.1, 0.4]], dtype=np.float32))
    assert best_path(log_probs).tolist() == [1, 0]
    assert best_path(np.zeros((0, 3), dtype=np.float32)).tolist() == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"_\na\nb\n", "in the first line"),
        (b"|\na\n", "in the first line"),
        (b"_\n", "in the first line"),
        (b"_\n|\na\na\n", "without duplicates"),
        (b"_\n|\n\na\n", "one entry per line"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_tokens_that_cannot_be_meant_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "tokens.txt").write_bytes(content)
    with pytest.raises(ModelRejected, match=reason):
        read_tokens(tmp_path / "tokens.txt")


def test_tokens_and_lists_are_read_line_by_line(tmp_path: Path) -> None:
    (tmp_path / "tokens.txt").write_text("\ufeff<blank>\n|\na\n", encoding="utf-8")
    assert read_tokens(tmp_path / "tokens.txt") == ("<blank>", "|", "a")
    with pytest.raises(ModelRejected, match="cannot be read"):
        read_lines(tmp_path / "nothing.txt")
