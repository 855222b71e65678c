"""The tokens of a speech model, letters: encode transcripts, and decode the best path."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

BLANK = "<blank>"
BETWEEN_WORDS = "|"
_ENGLISH = "abcdefghijklmnopqrstuvwxyz'"


def tokens_of(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the tokens for some transcripts: the blank, letters, and the word separator.

    English letters are always included, so that an English model can start from another one.
    """
    further = {letter for text in texts for word in text.lower().split() for letter in word}
    return (BLANK, *_ENGLISH, *sorted(further - set(_ENGLISH) - {BETWEEN_WORDS}), BETWEEN_WORDS)


def normalize_text(text: str) -> str:
    """Normalize a transcript: lower case, one space between words."""
    return " ".join(text.replace(BETWEEN_WORDS, " ").lower().split())


def encode_text(text: str, tokens: Sequence[str]) -> NDArray[np.int64]:
    """Return a transcript as token numbers i64 [L], without characters that are no tokens."""
    numbers = {token: number for number, token in enumerate(tokens)}
    letters = normalize_text(text).replace(" ", BETWEEN_WORDS)
    return np.array([numbers[letter] for letter in letters if letter in numbers], dtype=np.int64)


def best_path(log_probs: NDArray[np.float32], tokens: Sequence[str]) -> str:
    """Return the text of the most probable token of every frame: repetitions are merged, blanks removed.

    Args:
        log_probs: f32 [F, V].
        tokens: V.
    """
    best = log_probs.argmax(axis=1)
    kept = best[np.concatenate([[True], best[1:] != best[:-1]])] if best.size else best
    return normalize_text("".join(tokens[number] for number in kept.tolist() if number))
