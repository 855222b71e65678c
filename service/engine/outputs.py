"""A run and what came of it: every item has its row, and every row is finite, or there is an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engine.ticket import Item, Outputs
from service.errors import KotaeError

Arrays = Mapping[str, NDArray[Any]]
Run = Callable[[Arrays], Arrays]


class WrongOutputs(KotaeError):
    """The graph gave another number of rows than it got: no halving would help."""


class NotFinite(KotaeError):
    """The graph gave NaN or infinity for some items."""


def checked_run(run: Run, arrays: Arrays, count: int) -> Arrays:
    """Run a batch and see that every item has its row.

    Raises:
        WrongOutputs: Another number of rows came out than went in.
        Exception: Whatever the run raised.
    """
    outputs = run(arrays)
    for name, output in outputs.items():
        if output.ndim == 0 or output.shape[0] != count:
            raise WrongOutputs(f"output {name} has shape {output.shape} for {count} items")
    return outputs


def split(items: Sequence[Item], outputs: Arrays) -> tuple[list[tuple[Item, Outputs]], list[Item]]:
    """Pair items with their rows.

    Returns:
        The pairs, and apart from them the items whose rows are not finite.
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
