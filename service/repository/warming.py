"""First runs, before a version answers: they are slow, and they say what a batch costs.

A GPU sees every shape that it will ever be asked for, on every thread that will ask. A CPU runs a ladder of
sizes for a moment.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.lane.lane import Lane
from service.engine.queue.batch import BatchLimits
from service.engine.queue.batcher import Batcher
from service.engine.runtime.session import Session, TensorSpec
from service.engine.runtime.shape_buckets import Buckets, pad

_CPU_SECONDS = 0.1  # of one model on one lane

Arrays = Mapping[str, NDArray[Any]]


def warm_up(session: Session, lane: Lane, batcher: Batcher, inputs: Arrays, buckets: Buckets | None) -> None:
    """Run batches of many sizes, and let the queue know what each costs.

    On a CPU this is bounded in time: a step that would pass the limit is left out, the first one never is.

    Args:
        session: What runs.
        lane: Where it runs.
        batcher: The queue.
        inputs: Golden arrays; the first row is taken.
        buckets: The shapes of a GPU; None for a CPU.
    """
    if buckets is not None:
        for batch in shapes(session.inputs, inputs, buckets, batcher.limits):
            for done in lane.call_each(partial(session.run, batch)):
                done.result()
    cost = 1 if batcher.uniform else longest_axis(inputs)
    if buckets is not None and not batcher.uniform:
        cost = buckets.length(cost)
    limits = batcher.limits
    most = min(limits.max_items, max(1, (limits.max_cost or limits.max_items * cost) // cost))
    steps = [2**k for k in range(most.bit_length())] if buckets is None else buckets.ladder()
    ends = time.monotonic() + (_CPU_SECONDS if buckets is None else math.inf)
    for items in [*(step for step in steps if step < most), most]:
        batch = {name: np.repeat(array[:1], items, axis=0) for name, array in inputs.items()}
        lane.call(partial(session.run, batch)).result()  # this allocates
        started = time.monotonic()
        lane.call(partial(session.run, batch)).result()
        seconds = time.monotonic() - started
        batcher.seed(items * cost, seconds)
        if time.monotonic() + 4 * seconds > ends:
            if items == 1 < most:
                batcher.seed(2 * cost, 2 * seconds)  # batching gives nothing until it is seen to
            return


def shapes(
    specs: tuple[TensorSpec, ...], inputs: Arrays, buckets: Buckets, limits: BatchLimits
) -> Iterator[dict[str, NDArray[Any]]]:
    """Make a batch of each shape that batches can have, from the first golden row on; padding is zeros."""
    longest = longest_axis(inputs)
    ragged = any(None in spec.shape[1:] for spec in specs)
    for items in buckets.ladder():
        for length in buckets.lengths(longest) if ragged else [1]:
            if ragged and items > 1 and limits.max_cost and items * length > limits.max_cost:
                break
            yield {spec.name: _filled(inputs[spec.name][:1], spec, items, length) for spec in specs}


def longest_axis(inputs: Arrays) -> int:
    """Give the longest axis of a row: the cost of a ragged one; 1 where rows have no axes."""
    return max((size for array in inputs.values() for size in array.shape[1:]), default=1)


def _filled(row: NDArray[Any], spec: TensorSpec, items: int, length: int) -> NDArray[Any]:
    axes = (length if axis is None else axis for axis in spec.shape[1:])
    batch = np.zeros((items, *axes), dtype=row.dtype)
    pad(row, batch)
    return batch
