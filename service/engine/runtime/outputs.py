"""A run and what came of it: every item has its row, and every row is finite, or there is an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.engine.queue.pending_request import Item, Outputs
from service.errors import KotaeError

Arrays = Mapping[str, NDArray[Any]]
Run = Callable[[Arrays], Arrays]


class Staged(Protocol):
    """A batch whose inputs stand where the device reads them. Made, run and read by one thread."""

    def run(self) -> None:
        """Run it; one batch at a time."""

    def outputs(self) -> Arrays:
        """Bring what came out to the host, while another batch may run."""


Stage = Callable[[Arrays], Staged]


class RunFailed(KotaeError):
    """A run of the graph raised; the text is ONNX Runtime's."""


class WrongOutputs(KotaeError):
    """The graph gave another number of rows than it got: no halving would help."""


class NotFinite(KotaeError):
    """The graph gave NaN or infinity for some items."""


def in_place(run: Run) -> Stage:
    """Stage for a device that reads inputs where they stand: nothing is copied."""
    return lambda arrays: _InPlace(run, arrays)


class _InPlace:
    __slots__ = ("_arrays", "_outputs", "_run")

    def __init__(self, run: Run, arrays: Arrays) -> None:
        self._run = run
        self._arrays = arrays
        self._outputs: Arrays = {}

    def run(self) -> None:
        self._outputs = self._run(self._arrays)

    def outputs(self) -> Arrays:
        return self._outputs


def attempt(stage: Stage, arrays: Callable[[], Arrays]) -> Staged:
    """Bring a batch to the device; what goes wrong is raised when it runs, where a batch can be halved."""
    try:
        return stage(arrays())
    except Exception as error:
        return _NotStaged(error)


class _NotStaged:
    def __init__(self, reason: Exception) -> None:
        self._reason = reason

    def run(self) -> None:
        raise self._reason

    def outputs(self) -> Arrays:
        raise self._reason


def checked(outputs: Arrays, count: int) -> Arrays:
    """See that every item has its row.

    Raises:
        WrongOutputs: Another number of rows came out than went in.
    """
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
