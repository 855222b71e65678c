"""Letters, the tokens of a speech model: from transcript to numbers, and from the best path back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

BLANK = "<blank>"
BETWEEN_WORDS = "|"
_ENGLISH = "abcdefghijklmnopqrstuvwxyz'"


def tokens_of(texts: Iterable[str]) -> tuple[str, ...]:
    """Give the tokens for such transcripts: the blank, letters, and what stands between words.

    English letters are always among them, so that one English model can start from another.
    """
    further = {letter for text in texts for word in text.lower().split() for letter in word}
    return (BLANK, *_ENGLISH, *sorted(further - set(_ENGLISH) - {BETWEEN_WORDS}), BETWEEN_WORDS)


def plain(text: str) -> str:
    """Write a transcript as it is learnt and compared: lower case, one space between words."""
    return " ".join(text.replace(BETWEEN_WORDS, " ").lower().split())


def numbers_of(text: str, tokens: Sequence[str]) -> NDArray[np.int64]:
    """Turn a transcript into token numbers i64 [L]; letters that are no token are left out."""
    numbers = {token: number for number, token in enumerate(tokens)}
    letters = plain(text).replace(" ", BETWEEN_WORDS)
    return np.array([numbers[letter] for letter in letters if letter in numbers], dtype=np.int64)


def best_path(log_probs: NDArray[np.float32], tokens: Sequence[str]) -> str:
    """Read the likeliest token of every frame: repetitions count once, blanks not at all.

    Args:
        log_probs: f32 [F, V].
        tokens: V.
    """
    best = log_probs.argmax(axis=1)
    kept = best[np.concatenate([[True], best[1:] != best[:-1]])] if best.size else best
    return plain("".join(tokens[number] for number in kept.tolist() if number))
