"""Captured runs (CUDA graphs): what each was captured of, and a gate that protects a capture."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from service.engine.runtime.run import RunFailed


class CaptureGate:
    """A lock between one capture and all other calls of CUDA.

    A capture fails if another thread of the process allocates memory or waits meanwhile, whatever it works on
    (CUDA Runtime API, `cudaStreamCaptureModeGlobal`). Captures are few: they happen while a model is loaded.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._capturing = False
        self._mine = threading.local()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the gate for calls other than a capture.

        A thread that is inside may enter again, because memory may be freed at any moment.
        """
        if getattr(self._mine, "inside", False):
            yield
            return
        with self._changed:
            self._changed.wait_for(lambda: not self._capturing)
            self._mine.inside = True
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._mine.inside = False
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the gate for a capture."""
        with self._changed:
            self._changed.wait_for(lambda: not self._capturing)
            self._mine.inside = True
            self._capturing = True
        try:
            with self._changed:
                self._changed.wait_for(lambda: not self._inside)
            yield
        finally:
            with self._changed:
                self._capturing = False
                self._mine.inside = False
                self._changed.notify_all()


GATE = CaptureGate()


class CapturedRuns:
    """The captured runs of a session, by the number that ONNX Runtime keeps each under.

    Attributes:
        works: Whether runs are captured; a capture that failed ends this.
    """

    def __init__(self) -> None:
        self.works = True
        self._numbers = itertools.count(1)  # ONNX Runtime keeps 0 for itself
        self._captured: dict[int, object] = {}

    def new_number(self) -> int:
        """Return a number under which nothing is captured yet."""
        return next(self._numbers)

    def has(self, number: int) -> bool:
        """Return whether a run was captured under a number."""
        return number in self._captured

    def add(self, number: int, of: object) -> None:
        """Note what shapes and addresses a run was captured of."""
        self._captured[number] = of

    def check(self, number: int, of: object) -> None:
        """Compare a captured run with what is to run. ONNX Runtime would replay it without looking.

        Raises:
            RunFailed: The run was captured of other shapes or addresses.
        """
        if self._captured[number] != of:
            raise RunFailed(f"captured run {number} is of {self._captured[number]}, not of {of}")
