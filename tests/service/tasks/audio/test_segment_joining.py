from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from service.tasks.audio.ctc_decoding import best_path, decode_words
from service.tasks.audio.segment_joining import SegmentOutput, choose_join_frame, join_segments
from tests.tiny_speech_models import TOKENS

SEPARATOR = TOKENS.index("|")
WORDS = ("bad", "dad", "abba", "head", "cab", "a", "had", "deaf") * 3


def spiky(words: tuple[str, ...] = WORDS, *, seed: int = 0) -> NDArray[np.int64]:
    """A path as networks make them: short letters, blanks between, of random lengths."""
    dice = np.random.default_rng(seed)
    path = [0, 0, 0]
    for letter in "|".join(words) + "|":
        path += [TOKENS.index(letter)] * dice.integers(1, 3)
        path += [0] * dice.integers(1, 4)
    return np.array([*path, 0, 0, 0])


def scores(path: NDArray[np.int64], *, seed: int = 0, doubt: float = 1.0) -> NDArray[np.float32]:
    """Log probabilities whose best path it is: f32 [F, V]."""
    logits = np.random.default_rng(seed).normal(0, doubt, (len(path), len(TOKENS)))
    logits[np.arange(len(path)), path] += 9.0
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probs: NDArray[np.float32] = (shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))).astype(
        np.float32
    )
    return log_probs


def text(frames: SegmentOutput) -> str:
    path = best_path(frames.log_probs)
    return " ".join(word.word for word in decode_words(path, frames.log_probs, TOKENS))


@pytest.mark.parametrize("seed", range(3))
def test_wherever_two_pieces_meet_no_word_is_lost_or_doubled(seed: int) -> None:
    path = spiky(seed=seed)
    whole = scores(path, seed=seed)
    other = scores(path, seed=seed + 100)
    for middle in range(40, len(path) - 40, 2):
        left = SegmentOutput(0, whole[: middle + 16])
        right = SegmentOutput(middle - 16, other[middle - 16 :])
        (joined,) = join_segments([(left, False), (right, True)], SEPARATOR)
        assert joined.start == 0 and len(joined.log_probs) == len(path)
        assert text(joined) == " ".join(WORDS)


@pytest.mark.parametrize("shift", [-2, -1, 1, 2])
def test_letters_that_come_earlier_or_later_in_the_other_piece_are_not_doubled(shift: int) -> None:
    path = spiky(seed=5)
    whole, shifted = scores(path), scores(np.roll(path, shift), seed=1)
    wrong = 0
    for middle in range(60, len(path) - 60, 2):
        segments = [
            (SegmentOutput(0, whole[: middle + 30]), False),
            (SegmentOutput(middle - 30, shifted[middle - 30 :]), True),
        ]
        wrong += text(join_segments(segments, SEPARATOR)[0]) != " ".join(WORDS)
    assert wrong == 0


def test_what_a_piece_makes_of_a_word_that_it_has_only_half_of_is_not_believed() -> None:
    path = spiky(seed=2)
    whole = scores(path)
    for middle in range(60, len(path) - 60, 2):
        left, right = whole[: middle + 30].copy(), whole[middle - 30 :].copy()
        left[-8:] = scores(np.full(8, TOKENS.index("h")), seed=3)  # a letter that is not there
        right[:8] = scores(np.full(8, TOKENS.index("f")), seed=4)
        segments = [(SegmentOutput(0, left), False), (SegmentOutput(middle - 30, right), True)]
        assert text(join_segments(segments, SEPARATOR)[0]) == " ".join(WORDS)


def test_many_pieces_become_one_stretch() -> None:
    path = spiky(seed=3)
    whole = scores(path)
    starts = range(0, len(path) - 30, 50)
    segments = [(SegmentOutput(start, whole[start : start + 80]), start > 0) for start in starts]
    (joined,) = join_segments(segments, SEPARATOR)
    assert text(joined) == " ".join(WORDS)


def test_pieces_with_a_pause_between_them_stay_apart() -> None:
    log_probs = scores(np.zeros(10, dtype=np.int64))
    segments = [
        (SegmentOutput(0, log_probs), False),
        (SegmentOutput(50, log_probs), False),
        (SegmentOutput(60, log_probs), True),
    ]
    assert [(stretch.start, stretch.end) for stretch in join_segments(segments, SEPARATOR)] == [
        (0, 10),
        (50, 60),
        (60, 70),
    ]
    assert join_segments([], SEPARATOR) == []


def test_a_seam_lies_where_both_pieces_have_frames() -> None:
    for size in (1, 2, 3, 5, 20):
        log_probs = scores(np.arange(30) % len(TOKENS))
        left, right = SegmentOutput(0, log_probs[:20]), SegmentOutput(20 - size, log_probs[:25])
        assert 20 - size <= choose_join_frame(left, right, SEPARATOR) <= 20
