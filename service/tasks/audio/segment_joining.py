"""Joining of the graph's outputs for overlapping segments, without losing or repeating a letter.

Array shapes: `F` frames, `V` tokens; token 0 is the blank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BLANK = 0
_CONTEXT = 2  # frames on each side of a join that should be empty too
_DISAGREEMENT_COST = 4.0  # in log probability, if the segments disagree on a neighbouring token
_DISTANCE_COST = 0.01  # in log probability, per frame of distance from the middle of the overlap


@dataclass(frozen=True, slots=True)
class SegmentOutput:
    """The graph's output for a part of a recording.

    Attributes:
        start: First frame, counted from the recording's beginning.
        log_probs: f32 [F, V].
    """

    start: int
    log_probs: NDArray[np.float32]

    @property
    def end(self) -> int:
        """The frame after the last one."""
        return self.start + len(self.log_probs)


def join_segments(segments: Sequence[tuple[SegmentOutput, bool]], separator: int) -> list[SegmentOutput]:
    """Return the outputs with overlapping segments joined.

    Args:
        segments: In order; each with whether it overlaps the one before it.
        separator: The token between words.

    Returns:
        One output for each run of overlapping segments.
    """
    runs: list[list[SegmentOutput]] = []
    for segment, overlaps in segments:
        if not overlaps or not runs or segment.start >= runs[-1][-1].end:
            runs.append([segment])
            continue
        last = runs[-1][-1]
        frame = choose_join_frame(last, segment, separator)
        runs[-1][-1] = SegmentOutput(last.start, last.log_probs[: frame - last.start])
        runs[-1].append(SegmentOutput(frame, segment.log_probs[frame - segment.start :]))
    return [SegmentOutput(run[0].start, np.concatenate([part.log_probs for part in run])) for run in runs]


def choose_join_frame(left: SegmentOutput, right: SegmentOutput, separator: int) -> int:
    """Return the first frame that is taken from the right segment.

    The best frame has only blanks around it in both segments, has the same token before and after it in both,
    and is near the middle of the overlap, where both segments have enough context.

    Args:
        left: Its end overlaps the beginning of `right`.
        right: The next segment.
        separator: The token between words.

    Returns:
        A frame that both segments have, counted from the recording's beginning.
    """
    start, end = right.start, min(left.end, right.end)
    ours = left.log_probs[start - left.start : end - left.start]
    theirs = right.log_probs[: end - start]
    occupancy = -(_emptiness(ours, separator) + _emptiness(theirs, separator))
    width = 2 * _CONTEXT + 1
    cost = np.convolve(np.pad(occupancy, _CONTEXT, mode="edge"), np.ones(width) / width, mode="valid")
    frames = np.arange(end - start)
    cost = cost + _DISTANCE_COST * np.abs(frames - (end - start) / 2)
    for neighbour_of in (_tokens_before, _tokens_from):
        cost = cost + _DISAGREEMENT_COST * (neighbour_of(ours) != neighbour_of(theirs))
    quarter = (end - start) // 4
    inner = cost[quarter : max(quarter + 1, end - start - quarter)]
    return start + quarter + int(np.argmin(inner))


def _emptiness(log_probs: NDArray[np.float32], separator: int) -> NDArray[np.float32]:
    empty: NDArray[np.float32] = np.maximum(log_probs[:, _BLANK], log_probs[:, separator])
    return empty


def _tokens_before(log_probs: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the last token before each frame that is not blank: i64 [F]; -1 if there is none."""
    best = log_probs.argmax(axis=1)
    last = np.maximum.accumulate(np.where(best != _BLANK, np.arange(len(best)), -1))
    before = np.concatenate(([-1], last[:-1]))
    return np.where(before < 0, -1, best[before])


def _tokens_from(log_probs: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the first token from each frame on that is not blank: i64 [F]; -1 if there is none."""
    best = log_probs.argmax(axis=1)
    count = len(best)
    where = np.where(best != _BLANK, np.arange(count), count)
    first = np.minimum.accumulate(where[::-1])[::-1]
    return np.where(first == count, -1, np.append(best, -1)[first])
