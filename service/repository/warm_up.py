"""Warm-up: the first runs of a version, before it is ready.

First runs are slow, because they allocate memory. They also tell the queue how long a batch takes. A GPU runs
every batch shape, on every thread of its lane. A CPU runs batches of increasing size for a limited time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.lane.lane import Lane
from service.engine.queue.batch import BatchLimits
from service.engine.queue.batcher import Batcher
from service.engine.runtime.session import Session, TensorSpec
from service.engine.runtime.shape_buckets import Buckets, pad
from service.repository.golden import Arrays

_CPU_SECONDS = 0.1  # per model and lane


def warm_up(session: Session, lane: Lane, batcher: Batcher, inputs: Arrays, buckets: Buckets | None) -> None:
    """Run batches of many sizes and tell the queue how long each takes.

    On a CPU the time is limited; at least one batch is run.

    Args:
        session: The session.
        lane: The lane of the session's device.
        batcher: The version's queue.
        inputs: Golden inputs; the first row is used.
        buckets: The batch shapes of a GPU; None for a CPU.
    """
    if buckets is not None:
        for batch in batches_of_all_shapes(session.inputs, inputs, buckets, batcher.limits):
            for done in lane.call_each(partial(session.run, batch)):
                done.result()
    _measure_batches(session, lane, batcher, inputs, buckets)


def _measure_batches(
    session: Session, lane: Lane, batcher: Batcher, inputs: Arrays, buckets: Buckets | None
) -> None:
    cost = 1 if batcher.uniform else longest_axis(inputs)
    if buckets is not None and not batcher.uniform:
        cost = buckets.length(cost)
    sizes = _batch_sizes(batcher.limits, cost, buckets)
    end = time.monotonic() + (_CPU_SECONDS if buckets is None else math.inf)
    for items in sizes:
        batch = {name: np.repeat(array[:1], items, axis=0) for name, array in inputs.items()}
        lane.call(partial(session.run, batch)).result()  # allocates memory, so it is not measured
        started = time.monotonic()
        lane.call(partial(session.run, batch)).result()
        seconds = time.monotonic() - started
        batcher.seed(items * cost, seconds)
        if time.monotonic() + 4 * seconds > end:  # the next size is twice as large and runs twice
            if items == 1 < sizes[-1]:
                batcher.seed(2 * cost, 2 * seconds)  # assume no gain by batching until it is measured
            return


def _batch_sizes(limits: BatchLimits, cost: int, buckets: Buckets | None) -> list[int]:
    """Return the increasing batch sizes to measure, up to the largest that the limits allow."""
    largest = min(limits.max_items, max(1, (limits.max_cost or limits.max_items * cost) // cost))
    sizes = [2**k for k in range(largest.bit_length())] if buckets is None else buckets.ladder()
    return [*(size for size in sizes if size < largest), largest]


def batches_of_all_shapes(
    specs: tuple[TensorSpec, ...], inputs: Arrays, buckets: Buckets, limits: BatchLimits
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield a batch of each shape that batches can have, at least as long as the first golden row.

    Every item is the first golden row, padded with zeros.
    """
    longest = longest_axis(inputs)
    variable_length = any(None in spec.shape[1:] for spec in specs)
    for items in buckets.ladder():
        for length in buckets.lengths(longest) if variable_length else [1]:
            if variable_length and items > 1 and limits.max_cost and items * length > limits.max_cost:
                break
            yield {spec.name: _padded_batch(inputs[spec.name][:1], spec, items, length) for spec in specs}


def longest_axis(inputs: Arrays) -> int:
    """Return the longest axis of a row, which is the cost of one with variable length; 1 without axes."""
    return max((size for array in inputs.values() for size in array.shape[1:]), default=1)


def _padded_batch(row: NDArray[Any], spec: TensorSpec, items: int, length: int) -> NDArray[Any]:
    axes = (length if axis is None else axis for axis in spec.shape[1:])
    batch = np.zeros((items, *axes), dtype=row.dtype)
    pad(row, batch)
    return batch
