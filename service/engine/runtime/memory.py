"""When memory runs out, and when to give it back: rules without a lock or a device of their own.

ONNX Runtime's arena keeps what its largest batch needed until it is told to let go, on the CPU as on a GPU.
A batch that does not fit is run in halves (`lane`), and for some minutes none that large is formed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from service.engine.runtime.outputs import RunFailed

_RETRY_SECONDS = 600.0  # until a batch is tried again that did not fit: others may have left the device
_WINDOW_SECONDS = 60.0  # giving back and taking anew costs as much as a batch: so no oftener
_MOST_HELD = 2.0  # times what the runs of a window needed

# What ONNX Runtime, CUDA and the C++ library say, in lower case.
_SIGNS = (
    "failed to allocate memory",
    "is smaller than requested bytes",
    "out of memory",
    "alloc_failed",
    "bad_alloc",
    "bad allocation",
)


class OutOfMemory(RunFailed):
    """A batch does not fit the device's memory; a smaller one may."""


def failure_of(error: Exception) -> RunFailed:
    """Give our error for one of ONNX Runtime, which says only in its text that memory ran out."""
    text = str(error).strip()
    line = text.partition("\n")[0] or type(error).__name__
    if isinstance(error, MemoryError) or any(sign in text.lower() for sign in _SIGNS):
        return OutOfMemory(line)
    return RunFailed(line)


class ArenaUse:
    """Tells when an arena holds much more than it needed in the last minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._held = 0
        self._needed = 0

    def forget(self) -> None:
        """Note that it was shrunk."""
        self._held = self._needed = 0
        self._since = self._clock()

    def should_shrink(self, size_bytes: int) -> bool:
        """Note a run that is about to begin.

        Args:
            size_bytes: Of its inputs, padding included; what the run needs grows with them.

        Returns:
            Whether the arena should be shrunk at its end.
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
    """The largest padded cost of a batch that memory is believed to hold, after one did not fit.

    Attributes:
        size: The cost; None while nothing is known.
    """

    def __init__(self) -> None:
        self.size: int | None = None
        self._until = math.inf

    def note_failure(self, size: int, now: float) -> int:
        """Halve what did not fit.

        Returns:
            The largest size from now on, at least 1.
        """
        self.size = max(1, min(size // 2, self.size or size))
        self._until = now + _RETRY_SECONDS
        return self.size

    def lapses(self, now: float) -> bool:
        """Forget the limit where it is old enough, and tell whether that was now."""
        if self.size is None or now < self._until:
            return False
        self.size = None
        return True
