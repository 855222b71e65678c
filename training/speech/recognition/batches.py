"""Batches of utterances: those of like length together, as many as fill so many seconds.

The batch of step 17 is the same in every run with the same seed, so that a resumed training goes on with
what it would have seen.

Letters in shapes: `N` utterances of a batch, `T` samples, `L` letters of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from training.errors import DataRejected
from training.speech.batches import shared_out, side_by_side
from training.speech.dataset import SpokenSet
from training.speech.recognition.tokens import numbers_of

_ALIKE_SECONDS = 0.1  # utterances whose lengths differ by less are shuffled
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class BatchSize:
    """How much a batch holds.

    Attributes:
        samples: Most padded samples; a single longer utterance is a batch by itself.
        sample_rate: Samples a second.
    """

    samples: int
    sample_rate: int


class SpeechBatches(Dataset[Batch]):
    """Training batches by step number. Processes that learn together share each batch.

    Args:
        spoken: What to learn from.
        tokens: Of the transcripts.
        size: Of a batch.
        seed: Of the order.

    Raises:
        DataRejected: There is nothing to learn from.
    """

    def __init__(self, spoken: SpokenSet, tokens: Sequence[str], size: BatchSize, seed: int) -> None:
        self._spoken = spoken
        self._letters = [numbers_of(text, tokens) for text in spoken.texts]
        lengths = np.diff(spoken.offsets)
        learnable = (lengths > 0) & np.array([len(letters) > 0 for letters in self._letters], dtype=bool)
        self._chosen = np.flatnonzero(learnable)
        if not self._chosen.size:
            raise DataRejected("there is no speech to learn from")
        alike = round(_ALIKE_SECONDS * size.sample_rate)
        self._rounded = -(-lengths[self._chosen] // alike) * alike
        self._bounds = batch_bounds(np.sort(self._rounded), size.samples)
        self._seed = seed
        self._pass = -1
        self._members: list[NDArray[np.int64]] = []

    @property
    def steps(self) -> int:
        """Batches of one pass over all utterances."""
        return len(self._bounds)

    def __getitem__(self, step: int) -> Batch:
        number, place = divmod(step, self.steps)
        if number != self._pass:
            self._members, self._pass = self._arrange(number), number
        members = shared_out(self._members[place], least=1)
        return batch_of(
            [self._spoken.utterance(member) for member in members],
            [self._letters[member] for member in members],
        )

    def _arrange(self, number: int) -> list[NDArray[np.int64]]:
        """Divide the utterances into batches, anew for each pass; there are equally many of every pass."""
        random = np.random.default_rng((self._seed, number))
        shuffled = random.permutation(len(self._chosen))
        order = self._chosen[shuffled[np.argsort(self._rounded[shuffled], kind="stable")]]
        batches = [order[first:last] for first, last in self._bounds]
        return [batches[place] for place in random.permutation(len(batches)).tolist()]


def batch_bounds(lengths: NDArray[np.int64], most: int) -> list[tuple[int, int]]:
    """Cut rising lengths into batches whose padded size, count times the longest, is at most `most`."""
    bounds, first = [], 0
    for place in range(1, len(lengths) + 1):
        if place == len(lengths) or (place + 1 - first) * int(lengths[place]) > most:
            bounds.append((first, place))
            first = place
    return bounds


def batch_of(sounds: Sequence[NDArray[np.int16]], letters: Sequence[NDArray[np.int64]]) -> Batch:
    """Put utterances side by side.

    Returns:
        Audio i16 [N, T], filled up with 0; lengths i64 [N]; letters i64 [L], one utterance behind the
        other; letters of each, i64 [N].
    """
    counts = torch.tensor([len(one) for one in letters])
    return *side_by_side(sounds), torch.from_numpy(np.concatenate(letters)), counts
