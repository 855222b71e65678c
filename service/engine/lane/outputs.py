"""Checks of a batch's outputs: each item gets its row, and every value of the row is finite."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from service.engine.queue.pending_request import Item, Outputs
from service.engine.runtime.run import Arrays
from service.errors import KotaeError


class WrongOutputs(KotaeError):
    """The graph returned another number of rows than it was given."""


class NotFinite(KotaeError):
    """The graph returned NaN or infinity for some items."""


def check_rows(outputs: Arrays, count: int) -> Arrays:
    """Return the outputs if each of them has one row per item.

    Raises:
        WrongOutputs: An output has another number of rows.
    """
    for name, output in outputs.items():
        if output.ndim == 0 or output.shape[0] != count:
            raise WrongOutputs(f"output {name} has shape {output.shape} for {count} items")
    return outputs


def split_rows(items: Sequence[Item], outputs: Arrays) -> tuple[list[tuple[Item, Outputs]], list[Item]]:
    """Pair items with their rows.

    Returns:
        The pairs, and the items whose rows are not finite; these have no pair.
    """
    all_finite = _is_finite(outputs)
    pairs: list[tuple[Item, Outputs]] = []
    not_finite: list[Item] = []
    for i, item in enumerate(items):
        row = {name: output[i] for name, output in outputs.items()}
        if all_finite or _is_finite(row):
            pairs.append((item, row))
        else:
            not_finite.append(item)
    return pairs, not_finite


def _is_finite(arrays: Arrays) -> bool:
    return all(
        bool(np.isfinite(array).all()) for array in arrays.values() if np.issubdtype(array.dtype, np.floating)
    )
