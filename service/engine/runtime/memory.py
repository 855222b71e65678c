"""Rules for memory: which errors mean that it ran out, and when an arena should shrink.

ONNX Runtime's arena keeps what its largest batch needed until it is told to release it. A batch that does
not fit is run in halves (`service.engine.lane`), and no batch of that size is formed for some minutes.
Nothing here has a lock or a device of its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from service.engine.runtime.run import RunFailed

_RETRY_SECONDS = 600.0  # until a size that did not fit is tried again: other models may have left the device
_WINDOW_SECONDS = 60.0  # to release memory and allocate it again costs as much as a batch
_MOST_HELD = 2.0  # times what the runs of a window needed

# Messages of ONNX Runtime, CUDA and the C++ library, in lower case.
_MESSAGES = (
    "failed to allocate memory",
    "is smaller than requested bytes",
    "out of memory",
    "alloc_failed",
    "bad_alloc",
    "bad allocation",
)


class OutOfMemory(RunFailed):
    """A batch does not fit the device's memory; a smaller one may."""


def is_out_of_memory(error: Exception) -> bool:
    """Return whether memory ran out. ONNX Runtime says so only in the text of an error."""
    text = str(error).lower()
    return isinstance(error, MemoryError | OutOfMemory) or any(message in text for message in _MESSAGES)


def failure_of(error: Exception) -> RunFailed:
    """Return our error for one of ONNX Runtime's."""
    return OutOfMemory(first_line(error)) if is_out_of_memory(error) else RunFailed(first_line(error))


def first_line(error: Exception) -> str:
    """Return the first line of an error's text; the name of its class if it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


class ArenaUse:
    """What an arena holds, and what its runs of the last minute needed; both as bytes of inputs."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._held = 0
        self._needed = 0

    def forget(self) -> None:
        """Start anew after the arena was shrunk."""
        self._held = self._needed = 0
        self._since = self._clock()

    def should_shrink(self, size_bytes: int) -> bool:
        """Note a run that is about to begin.

        Args:
            size_bytes: Size of its inputs, padding included. The memory that a run needs grows with it.

        Returns:
            Whether the arena should shrink after the run.
        """
        self._needed = max(self._needed, size_bytes)
        self._held = max(self._held, size_bytes)
        now = self._clock()
        if now - self._since < _WINDOW_SECONDS:
            return False
        needed, self._needed, self._since = self._needed, 0, now
        if self._held <= _MOST_HELD * needed:
            return False
        self._held = needed
        return True


class KnownLimit:
    """The largest padded cost of a batch that is expected to fit, after a batch did not.

    Attributes:
        size: The cost; None while no limit is known.
    """

    def __init__(self) -> None:
        self.size: int | None = None
        self._until = math.inf

    def note_failure(self, size: int, now: float) -> int:
        """Set the limit to half of a size that did not fit.

        Args:
            size: Padded cost of the batch.
            now: The time in seconds.

        Returns:
            The limit, at least 1.
        """
        self.size = max(1, min(size // 2, self.size or size))
        self._until = now + _RETRY_SECONDS
        return self.size

    def lapses(self, now: float) -> bool:
        """Remove the limit if it is old enough; return whether it was removed now."""
        if self.size is None or now < self._until:
            return False
        self.size = None
        return True
