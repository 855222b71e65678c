"""The order of training items: a function of seed and epoch, so that a resumed run repeats it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class ShuffledItems(Sampler[int]):
    """Indices of items, shuffled anew in each pass of each epoch.

    Args:
        items: Number of items.
        passes: How often an epoch shows each item.
        seed: Seed of the order.
    """

    def __init__(self, items: int, passes: int, seed: int) -> None:
        self._items = items
        self._passes = passes
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this before each."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._items * self._passes

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self._seed, self._epoch))
        for _ in range(self._passes):
            yield from random.permutation(self._items).tolist()


class StepNumbers(Sampler[int]):
    """Numbers of the steps of an epoch, counted over all epochs.

    Args:
        steps: Steps of an epoch.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this before each."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[int]:
        # The body runs when the first number is read, which is after `set_epoch`.
        yield from range(self._epoch * self._steps, (self._epoch + 1) * self._steps)
