"""Training batches of speech recognition: utterances of similar length, up to a number of seconds.

Letters in shapes: `N` utterances of a batch, `T` samples, `L` letters of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from training.errors import DataRejected
from training.speech.batches import SoundBatch, SoundBatches, pad_sounds
from training.speech.dataset import SpeechTrainingSet
from training.speech.recognition.tokens import encode_text

_SIMILAR_SECONDS = 0.1  # utterances whose lengths differ by less are shuffled


@dataclass(frozen=True, slots=True)
class BatchSize:
    """The size of a batch.

    Attributes:
        samples: Most padded samples; a single longer utterance is a batch by itself.
        sample_rate: Samples per second.
    """

    samples: int
    sample_rate: int


class SpeechBatches(SoundBatches):
    """Training batches by step number; see `SoundBatches`.

    Args:
        sounds: The training set.
        tokens: The tokens of the transcripts.
        size: The size of a batch.
        seed: Seed of the order.

    Raises:
        DataRejected: The training set has no speech.
    """

    def __init__(self, sounds: SpeechTrainingSet, tokens: Sequence[str], size: BatchSize, seed: int) -> None:
        super().__init__(sounds, seed, smallest_share=1)
        self._letters = [encode_text(text, tokens) for text in sounds.texts]
        lengths = np.diff(sounds.offsets)
        usable = (lengths > 0) & np.array([len(letters) > 0 for letters in self._letters], dtype=bool)
        self._chosen = np.flatnonzero(usable)
        if not self._chosen.size:
            raise DataRejected("there is no speech to learn from")
        similar = round(_SIMILAR_SECONDS * size.sample_rate)
        self._rounded = -(-lengths[self._chosen] // similar) * similar
        self._bounds = batch_bounds(np.sort(self._rounded), size.samples)

    @property
    def steps(self) -> int:
        """Batches of one pass over all utterances."""
        return len(self._bounds)

    def divide(self, random: np.random.Generator) -> list[NDArray[np.int64]]:
        """Divide the utterances into batches of similar lengths."""
        shuffled = random.permutation(len(self._chosen))
        order = self._chosen[shuffled[np.argsort(self._rounded[shuffled], kind="stable")]]
        return [order[first:last] for first, last in self._bounds]

    def batch(self, members: list[int]) -> SoundBatch:
        """Return the batch of some utterances."""
        return batch_of(
            [self.sounds.utterance(member) for member in members],
            [self._letters[member] for member in members],
        )


def batch_bounds(lengths: NDArray[np.int64], most: int) -> list[tuple[int, int]]:
    """Divide rising lengths into batches whose padded size, count times the longest, is at most `most`."""
    bounds, first = [], 0
    for place in range(1, len(lengths) + 1):
        if place == len(lengths) or (place + 1 - first) * int(lengths[place]) > most:
            bounds.append((first, place))
            first = place
    return bounds


def batch_of(sounds: Sequence[NDArray[np.int16]], letters: Sequence[NDArray[np.int64]]) -> SoundBatch:
    """Return a batch of utterances.

    Returns:
        Audio i16 [N, T], padded with 0; lengths i64 [N]; letters i64 [L], concatenated; number of letters of
        each utterance, i64 [N].
    """
    counts = torch.tensor([len(one) for one in letters])
    return *pad_sounds(sounds), torch.from_numpy(np.concatenate(letters)), counts
