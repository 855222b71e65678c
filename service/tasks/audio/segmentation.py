"""Segmentation of long recordings: energy-based voice activity detection, cuts at pauses.

A segment ends in the middle of a pause. If there is no pause for too long, two segments overlap, and
`service.tasks.audio.segment_joining` joins the graph's outputs. Long silences belong to no segment.

Array shapes: `T` samples, `H` hops of 10 ms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

_HOP_SECONDS = 0.01
_SILENT_LEVEL = -70.0  # decibels relative to full scale; no recording of speech is so quiet
_LOUD_PERCENTILE = 99
_MIN_DEPTH = 20.0  # silence is this much below the loud hops of a recording, in decibels
_NOISE_MARGIN = 6.0  # and at most this much above the noise floor, in decibels
_NOISE_SECONDS = 15.0  # the noise floor of a hop is measured this far to both sides
_SKIPPED_SECONDS = 2.0  # shorter silences are kept
_MARGIN_SECONDS = 0.3  # silence kept at both ends of a skipped silence
_MERGED_SECONDS = 5.0  # sections closer than this are merged while the result is short
_PAUSE_SECONDS = 0.25  # silent parts of consonants are shorter
_PAUSE_FRACTION = 0.3  # a pause is below this fraction of the range from quiet to loud
_PAUSE_DEPTH = 8.0  # and this much below the loud level, in decibels
_OVERLAP_SECONDS = 2.0
_SHORTEST_SECONDS = 0.5
_CHUNK_HOPS = 6000  # levels are measured minute by minute, to bound memory


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a recording that is one item for the graph.

    Attributes:
        start: First sample.
        end: The sample after the last one.
        overlaps_previous: Whether it overlaps the segment before it, because there was no pause.
    """

    start: int
    end: int
    overlaps_previous: bool = False


def segment_audio(
    samples: NDArray[np.int16], sample_rate: int, max_seconds: float, frame_size: int
) -> list[Segment]:
    """Return the segments of a recording.

    Args:
        samples: i16 [T].
        sample_rate: Samples per second.
        max_seconds: Longest segment.
        frame_size: Samples of one frame of the graph; segments begin at multiples of it.

    Returns:
        Segments in order, none longer than `max_seconds`; an empty list if everything is silent.
    """
    levels = measure_levels(samples, sample_rate)
    max_size = int(max_seconds * sample_rate)
    if len(samples) <= max_size:
        silent = bool((levels < _SILENT_LEVEL).all())
        return [] if silent else [Segment(0, len(samples))]
    segmenter = _Segmenter(levels, sample_rate, max_size, frame_size, len(samples))
    return [segment for start, end in segmenter.sections() for segment in segmenter.split(start, end)]


def measure_levels(samples: NDArray[np.int16], sample_rate: int) -> NDArray[np.float32]:
    """Return the level of a recording, every 10 ms over 30 ms.

    Args:
        samples: i16 [T].
        sample_rate: Samples per second.

    Returns:
        f32 [H], at least one, in decibels relative to full scale; digital silence is -120.
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


class _Segmenter:
    """Segments one recording that is too long for one segment.

    Args:
        levels: f32 [H], see `measure_levels`.
        sample_rate: Samples per second.
        max_size: Longest segment, in samples.
        frame_size: Segments begin at multiples of this.
        size: T.
    """

    def __init__(
        self, levels: NDArray[np.float32], sample_rate: int, max_size: int, frame_size: int, size: int
    ) -> None:
        self._levels = levels
        self._rate = sample_rate
        self._hop = int(_HOP_SECONDS * sample_rate)
        self._max_size = max_size
        self._frame_size = frame_size
        self._size = size
        # The loudest hop of the window that begins at each hop: low only if the whole window is quiet.
        window = min(_hops(_PAUSE_SECONDS), len(levels))
        self._window = window
        self._loudest = sliding_window_view(levels, window).max(axis=1)

    def sections(self) -> list[tuple[int, int]]:
        """Return what is left between long silences, as pairs of first sample and end."""
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
        return [(self._first_sample(a), self._end(b)) for a, b in self._merged(kept)]

    def split(self, start: int, end: int) -> list[Segment]:
        """Return the segments of a section, cut at pauses or with overlap."""
        segments: list[Segment] = []
        overlaps = False
        while end - start > self._max_size:
            cut, is_pause = self._choose_cut(start, end)
            half = 0 if is_pause else self._overlap // 2
            segments.append(Segment(start, min(cut + half, end), overlaps))
            start, overlaps = self._round_to_frame(cut - half), not is_pause
        segments.append(Segment(start, end, overlaps))
        return segments

    @property
    def _overlap(self) -> int:
        return min(int(_OVERLAP_SECONDS * self._rate), self._max_size // 4)

    def _silent(self) -> NDArray[np.bool_]:
        """Return which hops have only steady noise far below the loud level, or digital silence."""
        levels = self._levels
        second = _hops(1.0)
        padded = np.pad(levels, (0, -len(levels) % second), mode="edge").reshape(-1, second)
        floors = np.percentile(padded, 10, axis=1)
        reach = int(_NOISE_SECONDS)
        around = sliding_window_view(np.pad(floors, reach, mode="edge"), 2 * reach + 1).min(axis=1)
        floor = np.repeat(around, second)[: len(levels)]
        loud = np.percentile(levels, _LOUD_PERCENTILE)
        quiet: NDArray[np.bool_] = levels < np.minimum(floor + _NOISE_MARGIN, loud - _MIN_DEPTH)
        return quiet | (levels < _SILENT_LEVEL)

    def _merged(self, kept: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Merge close sections while the result is short, so that clicks do not make many segments."""
        max_hops = self._max_size // self._hop // 2
        merged: list[tuple[int, int]] = []
        for start, end in kept:
            if merged and start - merged[-1][1] < _hops(_MERGED_SECONDS) and end - merged[-1][0] <= max_hops:
                merged[-1] = (merged[-1][0], end)
            else:
                merged.append((start, end))
        return merged

    def _choose_cut(self, start: int, end: int) -> tuple[int, bool]:
        """Return the sample where the segment from `start` ends, and whether there is a pause."""
        slack = self._overlap // 2 + self._frame_size
        low = start + self._max_size // 2
        high = min(start + self._max_size - slack, end - int(_SHORTEST_SECONDS * self._rate))
        first = low // self._hop
        last = max(first + 1, high // self._hop - self._window)
        candidates = self._loudest[first:last]
        if not len(candidates):
            return self._round_to_frame(high), False
        quietest = float(candidates.min())
        runs = _runs(candidates <= max(quietest + 1.0, _SILENT_LEVEL))
        best = first + sum(runs[-1]) // 2  # the last of the quietest: fewer segments
        around = self._levels[start // self._hop : (start + self._max_size) // self._hop]
        low_level, loud_level = np.percentile(around, (5, 95))
        bound = min(low_level + _PAUSE_FRACTION * (loud_level - low_level), loud_level - _PAUSE_DEPTH)
        middle = (best + self._window // 2) * self._hop
        return self._round_to_frame(middle), bool(quietest < max(bound, _SILENT_LEVEL))

    def _round_to_frame(self, sample: int) -> int:
        return sample // self._frame_size * self._frame_size

    def _first_sample(self, hop: int) -> int:
        return self._round_to_frame(hop * self._hop)

    def _end(self, hop: int) -> int:
        return self._size if hop >= len(self._levels) else hop * self._hop


def _hops(seconds: float) -> int:
    return round(seconds / _HOP_SECONDS)


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the runs of True, as pairs of first index and end."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
