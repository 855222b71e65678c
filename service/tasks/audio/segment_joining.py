"""What a graph made of overlapping pieces -> one row of frames, without a letter lost or doubled.

Letters in shapes: `F` frames, `V` tokens; token 0 is the blank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BLANK = 0
_AROUND = 2  # frames on each side of a seam that should be empty too
_DISAGREEMENT = 4.0  # how bad a seam is, in log probability, for a token that only one piece has beside it
_DISTANCE = 0.01  # and for a frame away from the middle


@dataclass(frozen=True, slots=True)
class Frames:
    """A stretch of frames in a recording.

    Attributes:
        start: Number of the first frame, counted from the recording's beginning.
        log_probs: f32 [F, V].
    """

    start: int
    log_probs: NDArray[np.float32]

    @property
    def end(self) -> int:
        """Number of the frame behind the last."""
        return self.start + len(self.log_probs)


def join(pieces: Sequence[tuple[Frames, bool]], separator: int) -> list[Frames]:
    """Join the frames of pieces that overlap.

    Args:
        pieces: In order; with each, whether it overlaps the one before it.
        separator: The token that stands between words.

    Returns:
        One stretch for each run of overlapping pieces.
    """
    runs: list[list[Frames]] = []
    for frames, joins in pieces:
        if not joins or not runs or frames.start >= runs[-1][-1].end:
            runs.append([frames])
            continue
        last = runs[-1][-1]
        seam = find_seam(last, frames, separator)
        runs[-1][-1] = Frames(last.start, last.log_probs[: seam - last.start])
        runs[-1].append(Frames(seam, frames.log_probs[seam - frames.start :]))
    return [Frames(run[0].start, np.concatenate([frames.log_probs for frames in run])) for run in runs]


def find_seam(left: Frames, right: Frames, separator: int) -> int:
    """Choose the frame from which on the right piece is believed.

    The best one has nothing but blanks around it in both pieces, the same token before and behind it, and
    is near the middle of the overlap, where both pieces see enough of the sound around.

    Args:
        left: Frames whose end overlaps the beginning of `right`.
        right: What follows.
        separator: The token that stands between words.

    Returns:
        The number of a frame that both pieces have.
    """
    start, end = right.start, min(left.end, right.end)
    ours = left.log_probs[start - left.start : end - left.start]
    theirs = right.log_probs[: end - start]
    loudness = -(_emptiness(ours, separator) + _emptiness(theirs, separator))
    width = 2 * _AROUND + 1
    cost = np.convolve(np.pad(loudness, _AROUND, mode="edge"), np.ones(width) / width, mode="valid")
    frames = np.arange(end - start)
    cost = cost + _DISTANCE * np.abs(frames - (end - start) / 2)
    for token_beside in (_tokens_before, _tokens_behind):
        cost = cost + _DISAGREEMENT * (token_beside(ours) != token_beside(theirs))
    quarter = (end - start) // 4
    inner = cost[quarter : max(quarter + 1, end - start - quarter)]
    return start + quarter + int(np.argmin(inner))


def _emptiness(log_probs: NDArray[np.float32], separator: int) -> NDArray[np.float32]:
    empty: NDArray[np.float32] = np.maximum(log_probs[:, _BLANK], log_probs[:, separator])
    return empty


def _tokens_before(log_probs: NDArray[np.float32]) -> NDArray[np.int64]:
    """Give the last token, not blank, before each frame: i64 [F]; -1 where there is none."""
    best = log_probs.argmax(axis=1)
    last = np.maximum.accumulate(np.where(best != _BLANK, np.arange(len(best)), -1))
    before = np.concatenate(([-1], last[:-1]))
    return np.where(before < 0, -1, best[before])


def _tokens_behind(log_probs: NDArray[np.float32]) -> NDArray[np.int64]:
    """Give the first token, not blank, from each frame on: i64 [F]; -1 where there is none."""
    best = log_probs.argmax(axis=1)
    count = len(best)
    where = np.where(best != _BLANK, np.arange(count), count)
    first = np.minimum.accumulate(where[::-1])[::-1]
    return np.where(first == count, -1, np.append(best, -1)[first])
