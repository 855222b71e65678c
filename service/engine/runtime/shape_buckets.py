"""Shape buckets: the few shapes that batches are padded to on a GPU.

cuDNN chooses algorithms for a shape, TensorRT chooses kernels, and a captured run has one shape. Sizes of a
batch are 1, 2, 3, 4, 6, 8, 12, …: padding adds less than half. Lengths have eight steps between two powers of
two: padding adds at most an eighth, because it costs time in attention and convolution. Arithmetic only.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

_LEAST_STEP = 8


@dataclass(frozen=True, slots=True)
class Buckets:
    """The shapes of one model.

    Attributes:
        max_items: Items of the largest batch.
        max_length: The longest row that the graph takes; None is no limit.
    """

    max_items: int
    max_length: int | None = None

    def ladder(self) -> Sequence[int]:
        """Return the sizes of batches, ascending; the last one is `max_items`."""
        return _ladder(self.max_items)

    def items(self, count: int) -> int:
        """Round a number of items up to a bucket; a number beyond the largest bucket stays as it is."""
        sizes = _ladder(self.max_items)
        place = bisect.bisect_left(sizes, count)
        return sizes[place] if place < len(sizes) else count

    def length(self, size: int) -> int:
        """Round a length up to a bucket, at most to `max_length`."""
        step = max(_LEAST_STEP, (1 << size.bit_length()) // 16)
        rounded = -(-size // step) * step
        return rounded if self.max_length is None else max(size, min(rounded, self.max_length))

    def lengths(self, least: int) -> list[int]:
        """Return the buckets of lengths from that of the least one to `max_length`."""
        lengths = [self.length(least)]
        while self.max_length is not None and lengths[-1] < self.max_length:
            lengths.append(self.length(lengths[-1] + 1))
        return lengths

    def shape(self, shape: Sequence[int], axes: Sequence[int | None]) -> tuple[int, ...]:
        """Round the shape of an input.

        Args:
            shape: The shape of a batch of it.
            axes: The shape of the graph's input; None where an axis is dynamic, as the first one is.
        """
        pairs = zip(shape[1:], axes[1:], strict=True)
        return (
            self.items(shape[0]),
            *(self.length(size) if axis is None else size for size, axis in pairs),
        )


@cache
def _ladder(most: int) -> Sequence[int]:
    sizes = {1, most}
    for power in range(1, most.bit_length()):
        sizes |= {2**power, 3 * 2 ** (power - 1)}
    return sorted(size for size in sizes if size <= most)


def pad(array: NDArray[np.generic], target: NDArray[np.generic]) -> None:
    """Write a batch into a larger array: zeros at the end of each axis, then copies of the last item.

    Padding items repeat a real one, because a graph may not be made for an item of zeros only.
    """
    count = len(array)
    target[:count] = 0
    target[(slice(count), *(slice(size) for size in array.shape[1:]))] = array
    target[count:] = target[count - 1]
