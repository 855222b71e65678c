"""Training batches of the keyword classifier: sounds of similar length with their labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from training.errors import DataRejected
from training.speech.batches import SoundBatch, SoundBatches, pad_sounds
from training.speech.dataset import SpeechTrainingSet

_SORTED_TOGETHER = 16  # batches whose sounds are drawn together, then sorted by length


class KeywordBatches(SoundBatches):
    """Training batches by step number; see `SoundBatches`.

    Args:
        sounds: The training set.
        classes: The labels.
        size: Sounds of a batch.
        seed: Seed of the order.

    Raises:
        DataRejected: The training set is empty.
    """

    def __init__(self, sounds: SpeechTrainingSet, classes: Sequence[str], size: int, seed: int) -> None:
        super().__init__(sounds, seed, smallest_share=2)  # a single sound has no batch statistics
        self._labels = labels_of(sounds.texts, classes)
        self._lengths = np.diff(sounds.offsets)
        self._chosen = np.flatnonzero(self._lengths > 0)
        if not self._chosen.size:
            raise DataRejected("there is no sound to learn from")
        self._size = min(size, len(self._chosen))

    @property
    def steps(self) -> int:
        """Batches of one pass; sounds that fill no batch are left out of the pass."""
        return len(self._chosen) // self._size

    def divide(self, random: np.random.Generator) -> list[NDArray[np.int64]]:
        """Divide the sounds into batches of one size and similar lengths."""
        shuffled = self._chosen[random.permutation(len(self._chosen))[: self.steps * self._size]]
        batches: list[NDArray[np.int64]] = []
        for start in range(0, len(shuffled), _SORTED_TOGETHER * self._size):
            drawn = shuffled[start : start + _SORTED_TOGETHER * self._size]
            drawn = drawn[np.argsort(self._lengths[drawn], kind="stable")]
            batches += np.split(drawn, len(drawn) // self._size)
        return batches

    def batch(self, members: list[int]) -> SoundBatch:
        """Return the batch of some sounds."""
        return batch_of([self.sounds.utterance(member) for member in members], self._labels[members])


def batch_of(sounds: Sequence[NDArray[np.int16]], labels: NDArray[np.int64]) -> SoundBatch:
    """Return audio i16 [N, T], padded with 0; lengths i64 [N]; labels i64 [N]."""
    return *pad_sounds(sounds), torch.from_numpy(labels)


def labels_of(texts: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    """Return the class numbers of labels: i64 [N].

    Raises:
        DataRejected: A label is not in `classes`.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    if unknown := sorted(set(texts) - numbers.keys()):
        raise DataRejected(f"nothing to learn from is labelled {unknown[0]}, but a held-out sound is")
    return np.array([numbers[text] for text in texts], dtype=np.int64)
