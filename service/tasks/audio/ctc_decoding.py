"""Paths of tokens through frames -> words with their times: the last step of speech recognition.

A path names one token a frame. Repeated tokens are one letter, blanks are none, and the separator ends a
word. Letters in shapes: `F` frames, `V` tokens; token 0 is the blank.
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
_TRIFLE = 1e-3  # in log probability


@dataclass(frozen=True, slots=True)
class Spelt:
    """A word in a path.

    Attributes:
        start: Frame in which its first letter begins, counted as the path is.
        end: The frame behind its last letter.
        confidence: Geometric mean of its letters' probabilities, 0-1.
    """

    word: str
    start: int
    end: int
    confidence: float


def best_path(log_probs: NDArray[np.float32]) -> NDArray[np.int64]:
    """Choose the most probable token of every frame.

    Args:
        log_probs: f32 [F, V].

    Returns:
        i64 [F].
    """
    path: NDArray[np.int64] = log_probs.argmax(axis=1)
    return path


def mark_pauses(log_probs: NDArray[np.float32], separator: int, frames: int) -> NDArray[np.float32]:
    """Let a word end in every long pause, also for a network that heard none while it learnt.

    Args:
        log_probs: f32 [F, V].
        separator: The token that stands between words.
        frames: So many blanks without a letter between them are a pause.

    Returns:
        The same, but in the middle of each pause the separator is a trifle likelier than the blank.
    """
    best = best_path(log_probs)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], best == BLANK, [0]))))
    pauses = [(first + last) // 2 for first, last in edges.reshape(-1, 2) if last - first >= frames]
    if not pauses:
        return log_probs
    marked = log_probs.copy()
    marked[pauses, separator] = marked[pauses, BLANK] + _TRIFLE
    return marked


def spell(path: NDArray[np.int64], log_probs: NDArray[np.float32], tokens: Sequence[str]) -> list[Spelt]:
    """Read the words off a path.

    Args:
        path: i64 [F].
        log_probs: f32 [F, V]; what the letters' probabilities are looked up in.
        tokens: V names.
    """
    if not len(path):
        return []
    firsts = np.flatnonzero(np.concatenate(([True], path[1:] != path[:-1])))
    lasts = np.append(firsts[1:], len(path))
    scores = log_probs[np.arange(len(path)), path]
    words: list[Spelt] = []
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


def _word(letters: Sequence[tuple[str, int, int, float]]) -> Spelt:
    names, firsts, lasts, scores = zip(*letters, strict=True)
    return Spelt("".join(names), firsts[0], lasts[-1], float(np.exp(min(0.0, float(np.mean(scores))))))


def read_tokens(path: Path) -> tuple[str, ...]:
    """Read the tokens of a version, one a line, the blank first.

    Raises:
        ModelRejected: The file is missing, or is no list of different tokens with a separator.
    """
    tokens = read_lines(path)
    if len(tokens) < 2 or SEPARATOR not in tokens[1:]:
        raise ModelRejected(f"{path.name} must hold the blank first and {SEPARATOR} further down")
    return tokens


def read_lines(path: Path) -> tuple[str, ...]:
    """Read a list, one entry a line.

    Raises:
        ModelRejected: The file is missing or its lines are not all different.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelRejected(f"{path.name} cannot be read: {error}") from error
    lines = tuple(text.removesuffix("\n").split("\n"))
    if len(set(lines)) != len(lines) or "" in lines:
        raise ModelRejected(f"{path.name} must hold one entry a line, all different")
    return lines
