"""What a lane needs to run a batch: types that a session provides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from service.errors import KotaeError

Arrays = Mapping[str, NDArray[Any]]  # by name of an input or output, batch axis first
Run = Callable[[Arrays], Arrays]


class RunFailed(KotaeError):
    """A run of the graph raised; the text is ONNX Runtime's."""


class Staged(Protocol):
    """A batch whose inputs are where the device reads them. Made, run and read by one thread."""

    def run(self) -> None:
        """Run the batch. The device runs one batch at a time."""

    def outputs(self) -> Arrays:
        """Return the outputs in host memory. Another batch may run meanwhile."""


Stage = Callable[[Arrays], Staged]


def in_place(run: Run) -> Stage:
    """Return a stage function for a device that reads its inputs in host memory: nothing is copied."""
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
