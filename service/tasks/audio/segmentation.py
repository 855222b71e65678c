"""Long sounds -> pieces that a graph takes, cut where nobody speaks.

A piece ends in the middle of a pause. Where there is none for too long, two pieces overlap, and
`service.tasks.audio.segment_joining` joins what the graph makes of them. Long silences belong to no piece.

Letters in shapes: `T` samples of a sound, `H` hops of 10 ms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

_HOP_SECONDS = 0.01
_SILENT_LEVEL = -70.0  # decibels of full scale; nothing that people record speech with is so quiet
_LOUD_PERCENTILE = 99
_FAR_BELOW = 20.0  # silence is this much below the loud hops of a recording, in decibels
_NEAR_FLOOR = 6.0  # and within this of the steady noise around it
_FLOOR_SECONDS = 15.0  # how far around a hop its noise is looked for
_SKIPPED_SECONDS = 2.0  # shorter silences stay
_MARGIN_SECONDS = 0.3  # silence kept at the ends of what is skipped
_MERGED_SECONDS = 5.0  # sounds closer than this share a piece while it is short
_PAUSE_SECONDS = 0.25  # no consonant is silent for so long
_PAUSE_SHARE = 0.3  # a pause is below this share of the way from quiet to loud
_PAUSE_DEPTH = 8.0  # and this much below loud, in decibels
_OVERLAP_SECONDS = 2.0
_SHORTEST_SECONDS = 0.5
_CHUNK_HOPS = 6000  # levels are measured a minute at a time, to bound memory


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a sound, in samples, that the graph runs on.

    Attributes:
        joins: Whether it overlaps the piece before it, because there was no pause between them.
    """

    start: int
    end: int
    joins: bool = False


def cut(samples: NDArray[np.int16], sample_rate: int, max_seconds: float, grid: int) -> list[Piece]:
    """Plan the pieces of a sound.

    Args:
        samples: i16 [T].
        sample_rate: Of the samples.
        max_seconds: Longest piece.
        grid: Pieces begin at multiples of this many samples: the graph's frame.

    Returns:
        Pieces in order, none longer than `max_seconds`; none at all where everything is silent.
    """
    levels = levels_of(samples, sample_rate)
    most = int(max_seconds * sample_rate)
    if len(samples) <= most:
        silent = bool((levels < _SILENT_LEVEL).all())
        return [] if silent else [Piece(0, len(samples))]
    planner = _Planner(levels, sample_rate, most, grid, len(samples))
    return [piece for start, end in planner.stretches() for piece in planner.split(start, end)]


def levels_of(samples: NDArray[np.int16], sample_rate: int) -> NDArray[np.float32]:
    """Measure how loud a sound is, every 10 ms over 30 ms.

    Args:
        samples: i16 [T].
        sample_rate: Of the samples.

    Returns:
        f32 [H], at least one, in decibels of full scale; digital silence is -120.
    """
    hop = int(_HOP_SECONDS * sample_rate)
    count = max(1, len(samples) // hop)
    powers = np.zeros(count, dtype=np.float32)
    for first in range(0, count, _CHUNK_HOPS):
        last = min(first + _CHUNK_HOPS, count)
        chunk = samples[first * hop : last * hop].astype(np.float32) / 32768
        chunk = np.pad(chunk, (0, (last - first) * hop - len(chunk)))
        powers[first:last] = np.square(chunk).reshape(last - first, hop).mean(axis=1)
    smooth = np.convolve(powers, np.full(3, 1 / 3, dtype=np.float32), mode="same")
    levels: NDArray[np.float32] = 10 * np.log10(np.maximum(smooth[:count], 1e-12)).astype(np.float32)
    return levels


class _Planner:
    """Plans the pieces of one sound that is too long for one.

    Args:
        levels: f32 [H], see `levels_of`.
        sample_rate: Of the samples.
        most: Longest piece, in samples.
        grid: Pieces begin at multiples of this.
        size: T.
    """

    def __init__(
        self, levels: NDArray[np.float32], sample_rate: int, most: int, grid: int, size: int
    ) -> None:
        self._levels = levels
        self._rate = sample_rate
        self._hop = int(_HOP_SECONDS * sample_rate)
        self._most = most
        self._grid = grid
        self._size = size
        # The loudest hop of every window that begins at a hop: low only where all of it is quiet.
        window = min(_hops(_PAUSE_SECONDS), len(levels))
        self._window = window
        self._loudest = sliding_window_view(levels, window).max(axis=1)

    def stretches(self) -> list[tuple[int, int]]:
        """Find what is left between long silences: pairs of first and last sample."""
        margin = _hops(_MARGIN_SECONDS)
        kept: list[tuple[int, int]] = []
        start = 0
        for first, last in _runs(self._silent()):
            at_the_end = last == len(self._levels)
            if last - first < _hops(_SKIPPED_SECONDS) and not (first == 0 and at_the_end):
                continue
            if first > 0:
                kept.append((start, min(first + margin, last)))
            start = len(self._levels) if at_the_end else max(last - margin, first)
        if start < len(self._levels):
            kept.append((start, len(self._levels)))
        return [(self._at(a), self._end(b)) for a, b in self._merged(kept)]

    def split(self, start: int, end: int) -> list[Piece]:
        """Cut a stretch into pieces, at pauses or with overlap."""
        pieces: list[Piece] = []
        joins = False
        while end - start > self._most:
            seam, is_pause = self._seam(start, end)
            half = 0 if is_pause else self._overlap // 2
            pieces.append(Piece(start, min(seam + half, end), joins))
            start, joins = self._on_grid(seam - half), not is_pause
        pieces.append(Piece(start, end, joins))
        return pieces

    @property
    def _overlap(self) -> int:
        return min(int(_OVERLAP_SECONDS * self._rate), self._most // 4)

    def _silent(self) -> NDArray[np.bool_]:
        """Tell which hops hold nothing but steady noise far below the rest, or nothing at all."""
        levels = self._levels
        second = _hops(1.0)
        padded = np.pad(levels, (0, -len(levels) % second), mode="edge").reshape(-1, second)
        floors = np.percentile(padded, 10, axis=1)
        reach = int(_FLOOR_SECONDS)
        around = sliding_window_view(np.pad(floors, reach, mode="edge"), 2 * reach + 1).min(axis=1)
        floor = np.repeat(around, second)[: len(levels)]
        loud = np.percentile(levels, _LOUD_PERCENTILE)
        quiet: NDArray[np.bool_] = levels < np.minimum(floor + _NEAR_FLOOR, loud - _FAR_BELOW)
        return quiet | (levels < _SILENT_LEVEL)

    def _merged(self, kept: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Let near sounds share a piece while it is short, so that clicks do not make a thousand pieces."""
        most = self._most // self._hop // 2
        merged: list[tuple[int, int]] = []
        for start, end in kept:
            if merged and start - merged[-1][1] < _hops(_MERGED_SECONDS) and end - merged[-1][0] <= most:
                merged[-1] = (merged[-1][0], end)
            else:
                merged.append((start, end))
        return merged

    def _seam(self, start: int, end: int) -> tuple[int, bool]:
        """Choose where the piece from `start` ends: the sample, and whether there is a pause."""
        slack = self._overlap // 2 + self._grid
        low = start + self._most // 2
        high = min(start + self._most - slack, end - int(_SHORTEST_SECONDS * self._rate))
        first = low // self._hop
        last = max(first + 1, high // self._hop - self._window)
        candidates = self._loudest[first:last]
        if not len(candidates):
            return self._on_grid(high), False
        quietest = float(candidates.min())
        runs = _runs(candidates <= max(quietest + 1.0, _SILENT_LEVEL))
        best = first + sum(runs[-1]) // 2  # the latest of the quietest: fewer pieces
        around = self._levels[start // self._hop : (start + self._most) // self._hop]
        low_level, loud_level = np.percentile(around, (5, 95))
        bound = min(low_level + _PAUSE_SHARE * (loud_level - low_level), loud_level - _PAUSE_DEPTH)
        middle = (best + self._window // 2) * self._hop
        return self._on_grid(middle), bool(quietest < max(bound, _SILENT_LEVEL))

    def _on_grid(self, sample: int) -> int:
        return sample // self._grid * self._grid

    def _at(self, hop: int) -> int:
        return self._on_grid(hop * self._hop)

    def _end(self, hop: int) -> int:
        return self._size if hop >= len(self._levels) else hop * self._hop


def _hops(seconds: float) -> int:
    return round(seconds / _HOP_SECONDS)


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Find the runs of True: pairs of first index and the one behind the last."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
