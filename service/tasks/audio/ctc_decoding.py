"""CTC decoding: paths -> words with their frames, the last step of speech recognition.

A path has one token per frame. Repeated tokens are one letter, blanks are no letter, and the separator ends
a word. Array shapes: `F` frames, `V` tokens; token 0 is the blank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.errors import ModelRejected

BLANK = 0
SEPARATOR = "|"
_PREFERENCE = 1e-3  # log probability of a marked separator above the blank's


@dataclass(frozen=True, slots=True)
class DecodedWord:
    """A word of a path.

    Attributes:
        start: First frame of the first letter, in frames of the path.
        end: The frame after the last letter.
        confidence: Geometric mean of its letters' probabilities, 0-1.
    """

    word: str
    start: int
    end: int
    confidence: float


def best_path(log_probs: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the most probable token of every frame.

    Args:
        log_probs: f32 [F, V].

    Returns:
        i64 [F].
    """
    path: NDArray[np.int64] = log_probs.argmax(axis=1)
    return path


def mark_pauses(log_probs: NDArray[np.float32], separator: int, frames: int) -> NDArray[np.float32]:
    """Make every long pause end a word, also with networks that were trained without pauses.

    Args:
        log_probs: f32 [F, V].
        separator: The token between words.
        frames: At least this many consecutive blanks are a pause.

    Returns:
        The same log probabilities, with the separator slightly above the blank in the middle of each pause.
    """
    best = best_path(log_probs)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], best == BLANK, [0]))))
    pauses = [(first + last) // 2 for first, last in edges.reshape(-1, 2) if last - first >= frames]
    if not pauses:
        return log_probs
    marked = log_probs.copy()
    marked[pauses, separator] = marked[pauses, BLANK] + _PREFERENCE
    return marked


def decode_words(
    path: NDArray[np.int64], log_probs: NDArray[np.float32], tokens: Sequence[str]
) -> list[DecodedWord]:
    """Return the words of a path.

    Args:
        path: i64 [F].
        log_probs: f32 [F, V], for the words' confidence.
        tokens: V names.
    """
    if not len(path):
        return []
    firsts = np.flatnonzero(np.concatenate(([True], path[1:] != path[:-1])))
    lasts = np.append(firsts[1:], len(path))
    scores = log_probs[np.arange(len(path)), path]
    words: list[DecodedWord] = []
    letters: list[tuple[str, int, int, float]] = []
    for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
        token = tokens[path[first]]
        if path[first] == BLANK:
            continue
        if token != SEPARATOR:
            letters.append((token, first, last, float(scores[first:last].max())))
        elif letters:
            words.append(_word(letters))
            letters = []
    return [*words, _word(letters)] if letters else words


def _word(letters: Sequence[tuple[str, int, int, float]]) -> DecodedWord:
    names, firsts, lasts, scores = zip(*letters, strict=True)
    return DecodedWord("".join(names), firsts[0], lasts[-1], float(np.exp(min(0.0, float(np.mean(scores))))))


def read_tokens(path: Path) -> tuple[str, ...]:
    """Return the tokens of a version, one per line, the blank first.

    Raises:
        ModelRejected: The file is missing, has duplicates or has no separator.
    """
    tokens = read_lines(path)
    if len(tokens) < 2 or SEPARATOR not in tokens[1:]:
        raise ModelRejected(f"{path.name} must have the blank in the first line and {SEPARATOR} in another")
    return tokens


def read_lines(path: Path) -> tuple[str, ...]:
    """Return the lines of a list.

    Raises:
        ModelRejected: The file is missing, or has empty or duplicate lines.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelRejected(f"{path.name} cannot be read: {error}") from error
    lines = tuple(text.removesuffix("\n").split("\n"))
    if len(set(lines)) != len(lines) or "" in lines:
        raise ModelRejected(f"{path.name} must have one entry per line, without duplicates")
    return lines
