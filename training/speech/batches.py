"""Batches of sounds: what keyword and speech recognition have in common.

The batch of a step depends only on the seed and the number of the step, so that a resumed training continues
with the batches it would have seen. Training processes share each batch.

Letters in shapes: `N` sounds of a batch, `T` samples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from training.core.learner import process_rank
from training.speech.dataset import SpeechTrainingSet

SoundBatch = tuple[torch.Tensor, ...]  # audio i16 [N, T], lengths i64 [N], then the targets


class SoundBatches(Dataset[SoundBatch], ABC):
    """Training batches by step number.

    Args:
        sounds: The training set.
        seed: Seed of the order.
        smallest_share: Fewest sounds of a batch that a process may get.
    """

    def __init__(self, sounds: SpeechTrainingSet, seed: int, smallest_share: int) -> None:
        self.sounds, self._seed, self._smallest_share = sounds, seed, smallest_share
        self._pass = -1
        self._members: list[NDArray[np.int64]] = []

    @property
    @abstractmethod
    def steps(self) -> int:
        """Batches of one pass over all sounds."""

    @abstractmethod
    def divide(self, random: np.random.Generator) -> list[NDArray[np.int64]]:
        """Divide the sounds into batches: numbers of sounds, `steps` arrays."""

    @abstractmethod
    def batch(self, members: list[int]) -> SoundBatch:
        """Return the batch of some sounds."""

    def __getitem__(self, step: int) -> SoundBatch:
        number, place = divmod(step, self.steps)
        if number != self._pass:
            random = np.random.default_rng((self._seed, number))
            batches = self.divide(random)
            self._members = [batches[i] for i in random.permutation(len(batches)).tolist()]
            self._pass = number
        return self.batch(process_share(self._members[place], self._smallest_share))


def process_share(members: NDArray[np.int64], least: int) -> list[int]:
    """Return this process's share of a batch; all of it if a share would be smaller than `least`."""
    first, processes = process_rank()
    every: list[int] = members.tolist()
    return every[first::processes] if len(every) >= least * processes else every


def pad_sounds(sounds: Sequence[NDArray[np.int16]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return audio i16 [N, T], padded with 0, and lengths i64 [N]."""
    lengths = [len(sound) for sound in sounds]
    audio = np.zeros((len(sounds), max(lengths)), dtype=np.int16)
    for row, sound in zip(audio, sounds, strict=True):
        row[: len(sound)] = sound
    return torch.from_numpy(audio), torch.tensor(lengths)
