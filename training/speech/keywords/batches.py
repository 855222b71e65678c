"""Batches of short sounds with their labels: those of like length together.

The batch of step 17 is the same in every run with the same seed, so that a resumed training goes on with
what it would have seen.

Letters in shapes: `N` sounds of a batch, `T` samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from training.errors import DataRejected
from training.speech.batches import shared_out, side_by_side
from training.speech.dataset import SpokenSet

_SORTED_TOGETHER = 16  # batches' worth of sounds that are drawn, then put in order of length
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class KeywordBatches(Dataset[Batch]):
    """Training batches by step number. Processes that learn together share each batch.

    Args:
        spoken: What to learn from.
        classes: The labels.
        size: Sounds of a batch.
        seed: Of the order.

    Raises:
        DataRejected: There is nothing to learn from.
    """

    def __init__(self, spoken: SpokenSet, classes: Sequence[str], size: int, seed: int) -> None:
        self._spoken, self._seed = spoken, seed
        self._labels = labels_of(spoken.texts, classes)
        self._lengths = np.diff(spoken.offsets)
        self._chosen = np.flatnonzero(self._lengths > 0)
        if not self._chosen.size:
            raise DataRejected("there is no sound to learn from")
        self._size = min(size, len(self._chosen))
        self._pass = -1
        self._members: list[NDArray[np.int64]] = []

    @property
    def steps(self) -> int:
        """Batches of one pass over all sounds; the few that fill no batch wait for the next pass."""
        return len(self._chosen) // self._size

    def __getitem__(self, step: int) -> Batch:
        number, place = divmod(step, self.steps)
        if number != self._pass:
            self._members, self._pass = self._arrange(number), number
        members = shared_out(self._members[place], least=2)  # one sound has no batch statistics
        return batch_of([self._spoken.utterance(member) for member in members], self._labels[members])

    def _arrange(self, number: int) -> list[NDArray[np.int64]]:
        random = np.random.default_rng((self._seed, number))
        shuffled = self._chosen[random.permutation(len(self._chosen))[: self.steps * self._size]]
        batches: list[NDArray[np.int64]] = []
        for start in range(0, len(shuffled), _SORTED_TOGETHER * self._size):
            drawn = shuffled[start : start + _SORTED_TOGETHER * self._size]
            drawn = drawn[np.argsort(self._lengths[drawn], kind="stable")]
            batches += np.split(drawn, len(drawn) // self._size)
        return [batches[place] for place in random.permutation(len(batches)).tolist()]


def batch_of(sounds: Sequence[NDArray[np.int16]], labels: NDArray[np.int64]) -> Batch:
    """Put sounds side by side: audio i16 [N, T], filled up with 0; lengths i64 [N]; labels i64 [N]."""
    return *side_by_side(sounds), torch.from_numpy(labels)


def labels_of(texts: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    """Number labels: i64 [N].

    Raises:
        DataRejected: One is none of the classes.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    if unknown := sorted(set(texts) - numbers.keys()):
        raise DataRejected(f"nothing to learn from is labelled {unknown[0]}, but a held-out sound is")
    return np.array([numbers[text] for text in texts], dtype=np.int64)
