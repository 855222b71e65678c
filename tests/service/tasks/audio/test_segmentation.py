from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from service.tasks.audio.segmentation import Segment, measure_levels, segment_audio
from tests.tiny_speech_models import FRAME, RATE, WORDS, speak, tone

MOST = 4.0


def segments_of(samples: NDArray[np.float32], most: float = MOST) -> list[Segment]:
    return segment_audio(sixteen_bits(samples), RATE, most, FRAME)


def sixteen_bits(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    return np.rint(np.clip(samples, -1, 1) * 32767).astype(np.int16)


def noise(seconds: float, level: float, seed: int = 0) -> NDArray[np.float32]:
    """White noise of a level in decibels of full scale."""
    drawn = np.random.default_rng(seed).normal(0, 10 ** (level / 20), round(seconds * RATE))
    return drawn.astype(np.float32)


def talk(count: int, *, pauses: tuple[float, ...] = (0.3,), seed: int = 0) -> NDArray[np.float32]:
    dice = np.random.default_rng(seed)
    return speak(list(dice.choice(WORDS, count)), pauses=[float(p) for p in dice.choice(pauses, count)])[0]


def check(segments: list[Segment], samples: NDArray[np.float32], most: float = MOST) -> None:
    """What must always hold: nothing loud is left out or stands in two segments, unless they overlap."""
    covered = np.zeros(len(samples), dtype=int)
    for segment in segments:
        assert 0 <= segment.start < segment.end <= len(samples)
        assert segment.end - segment.start <= most * RATE
        assert segment.start % FRAME == 0
        covered[segment.start : segment.end] += 1
    assert covered.max(initial=0) <= 2
    assert not np.abs(samples[covered == 0]).max(initial=0.0) > 0.01
    for before, behind in itertools.pairwise(segments):
        assert (behind.start < before.end) == behind.overlaps_previous


def test_levels_are_decibels_of_full_scale() -> None:
    square = np.full(RATE, 16384, dtype=np.int16)
    assert measure_levels(square, RATE)[50] == pytest.approx(-6.02, abs=0.01)
    assert measure_levels(np.zeros(RATE, dtype=np.int16), RATE) == pytest.approx(np.full(100, -120.0))
    assert measure_levels(np.ones(3, dtype=np.int16), RATE).shape == (1,)


def test_a_short_recording_is_one_piece() -> None:
    samples = talk(5)
    assert segments_of(samples) == [Segment(0, len(samples))]
    assert segments_of(tone("a", MOST)) == [Segment(0, round(MOST * RATE))]


@pytest.mark.parametrize("seconds", [0.01, 1.0, MOST, 10.0, 100.0])
def test_silence_is_no_piece(seconds: float) -> None:
    assert segments_of(np.zeros(round(seconds * RATE), dtype=np.float32)) == []
    assert segments_of(noise(seconds, -85.0)) == []


@pytest.mark.parametrize("seed", range(8))
def test_whatever_the_pauses_everything_said_is_in_a_piece(seed: int) -> None:
    samples = talk(80, pauses=(0.0, 0.05, 0.3, 1.0, 3.0, 7.0), seed=seed)
    check(segments_of(samples), samples)


def test_cuts_stand_in_pauses_where_there_are_some() -> None:
    samples = talk(60)
    segments = segments_of(samples)
    check(segments, samples)
    assert not any(segment.overlaps_previous for segment in segments)
    for segment in segments[1:]:
        assert not samples[segment.start - 800 : segment.start + 800].any()


def test_without_a_pause_pieces_overlap() -> None:
    for samples in (talk(80, pauses=(0.0,)), tone("a", 30.0), noise(30.0, -20.0)):
        segments = segments_of(samples)
        check(segments, samples)
        assert all(segment.overlaps_previous for segment in segments[1:])
        for before, behind in itertools.pairwise(segments):
            assert 0.5 * RATE < before.end - behind.start <= MOST / 4 * RATE + FRAME


def test_long_silences_belong_to_no_piece() -> None:
    samples = np.concatenate(
        [np.zeros(60 * RATE, dtype=np.float32), talk(3), np.zeros(60 * RATE, np.float32)]
    )
    segments = segments_of(samples)
    check(segments, samples)
    assert sum(segment.end - segment.start for segment in segments) < 4 * RATE


def test_steady_noise_between_words_is_left_out_too() -> None:
    said = talk(30, pauses=(8.0,))
    samples = said + noise(len(said) / RATE, -50.0)[: len(said)]
    segments = segments_of(samples)
    covered = np.zeros(len(samples), dtype=bool)
    for segment in segments:
        covered[segment.start : segment.end] = True
    assert not np.abs(said[~covered]).max() > 0.01
    assert covered.mean() < 0.3


def test_a_quiet_speaker_beside_a_loud_one_is_kept() -> None:
    loud, quiet = talk(20, seed=1), talk(20, seed=2) * 0.05  # 26 decibels less
    room = noise(40.0, -65.0)
    samples = np.concatenate(
        [loud, np.zeros(4 * RATE, np.float32), quiet, np.zeros(4 * RATE, np.float32), loud]
    )
    samples = samples + np.resize(room, len(samples))
    start = len(loud) + 4 * RATE
    inside = np.zeros(len(samples), dtype=bool)
    for segment in segments_of(samples):
        inside[segment.start : segment.end] = True
    assert inside[start : start + len(quiet)].mean() > 0.98


def test_clicks_in_silence_do_not_make_a_piece_each() -> None:
    samples = np.zeros(600 * RATE, dtype=np.float32)
    samples[:: 3 * RATE] = 0.5
    segments = segments_of(samples, most=20.0)
    assert len(segments) <= 600 / 9
    check(segments, samples, most=20.0)
