"""Divide items into training, validation and test part, by a fixed seed.

The test part is used once, at the end. Contiguous blocks are a second way to hold out items: neighbours in a
data set often come from the same writer, so a block is more like unseen writers.

Letters in shapes: `N` items, `K` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from training.errors import DataRejected
from training.recipes.recipe import Split

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Parts:
    """Disjoint indices of items, each i64 and ascending."""

    train: Indices
    validation: Indices
    test: Indices

    @property
    def description(self) -> str:
        """The number of items in each part, for people."""
        return (
            f"{len(self.train)} to learn from, {len(self.validation)} for validation, "
            f"{len(self.test)} held out"
        )


def stratified_parts(labels: NDArray[np.int64], split: Split) -> Parts:
    """Divide items so that every part has the same mix of classes.

    Args:
        labels: i64 [N], 0 to K-1.
        split: Shares and seed.

    Raises:
        DataRejected: A class has too few items to be in every part.
    """
    everything = np.arange(len(labels))
    rest, test = _divide(everything, labels, split.test, split.seed)
    return _with_validation(rest, test, labels, split)


def contiguous_parts(labels: NDArray[np.int64], split: Split, blocks: int) -> list[Parts]:
    """Return one division per contiguous block of the data set; the block is the test part.

    Args:
        labels: i64 [N].
        split: The share of the validation part, and its seed.
        blocks: Number of blocks.
    """
    everything = np.arange(len(labels))
    return [
        _with_validation(np.setdiff1d(everything, block), block, labels, split)
        for block in np.array_split(everything, blocks)
    ]


def class_weights(labels: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """Return weights of classes that compensate their imbalance.

    Args:
        labels: i64 [N] of the training part.
        classes: K.

    Returns:
        f32 [K]: the inverse of each class's share, scaled so that the mean weight of an item is 1.

    Raises:
        DataRejected: A class has no item.
    """
    counts = np.bincount(labels, minlength=classes)
    if not counts.all():
        raise DataRejected(f"class number {int(np.argmin(counts))} has no picture in the training part")
    return (len(labels) / (classes * counts)).astype(np.float32)


def _with_validation(rest: Indices, test: Indices, labels: NDArray[np.int64], split: Split) -> Parts:
    share = min(0.5, split.validation / (1 - split.test))
    train, validation = _divide(rest, labels, share, split.seed)
    return Parts(train, validation, np.sort(test))


def _divide(indices: Indices, labels: NDArray[np.int64], share: float, seed: int) -> tuple[Indices, Indices]:
    try:
        kept, held_out = train_test_split(
            indices, test_size=share, random_state=seed, stratify=labels[indices]
        )
    except ValueError as error:
        raise DataRejected(
            f"too few items for a training, a validation and a test part of every class: {error}"
        ) from error
    return np.sort(kept), np.sort(held_out)


def grouped_parts(groups: Sequence[str], split: Split) -> Parts:
    """Divide items so that each group is in one part only.

    Args:
        groups: N names.
        split: Shares of the items, approximated to within one group, where every part has at least one group;
            and the seed of the groups' order.

    Raises:
        DataRejected: There are too few groups for three parts.
    """
    names, members = np.unique(np.array(groups), return_inverse=True)
    order = np.random.default_rng(split.seed).permutation(len(names))
    counts = np.bincount(members, minlength=len(names))[order]
    done = np.cumsum(counts) - counts / 2  # number of items before the middle of each group
    tests = max(1, int((done < split.test * len(groups)).sum()))
    held_out = max(tests + 1, int((done < (split.test + split.validation) * len(groups)).sum()))
    if held_out >= len(names):
        raise DataRejected(
            "there are too few groups, such as speakers, for a training, a validation and a test part: "
            f"{len(names)}, and none may be in two"
        )
    part_of = np.empty(len(names), dtype=np.int64)
    part_of[order] = np.repeat([0, 1, 2], [tests, held_out - tests, len(names) - held_out])
    test_part, validation, train = (np.flatnonzero(part_of[members] == part) for part in range(3))
    return Parts(train, validation, test_part)
