"""Ring buffer in shared memory for output tensors: the engine writes messages, a worker reads them in order.

The reader copies each message and then updates the counter in the first word, so that nothing has to be
sent back. Positions never decrease: the offset is the position modulo the capacity. A message never wraps
around the end of the memory.
"""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

from service.multiprocess.tensor_message import ALIGNMENT, TensorMessage


class _OutputRing:
    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, 0)
        self.capacity = (len(self._memory) - ALIGNMENT) // ALIGNMENT * ALIGNMENT
        self._consumed: NDArray[np.uint64] = np.ndarray((1,), np.uint64, self._memory)

    def _offset(self, position: int) -> int:
        return ALIGNMENT + position % self.capacity


class OutputRingWriter(_OutputRing):
    """Writes messages. Not thread-safe.

    Args:
        descriptor: File descriptor of the shared memory.

    Attributes:
        capacity: Size of the largest possible message, in bytes.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self._end = 0

    def put(self, message: TensorMessage) -> int | None:
        """Write a message.

        Returns:
            The position of its end, for the reader; None if there is no room now.
        """
        consumed = int(self._consumed[0])
        begin = self._end
        if begin % self.capacity + message.size > self.capacity:
            begin += self.capacity - begin % self.capacity
        oldest = begin if consumed == self._end else consumed
        if begin + message.size - oldest > self.capacity:
            return None
        message.write(self._memory, self._offset(begin))
        self._end = begin + message.size
        return self._end


class OutputRingReader(_OutputRing):
    """Reads messages. Not thread-safe.

    Args:
        descriptor: File descriptor of the shared memory.
    """

    def take(self, end: int, size: int) -> NDArray[np.uint8]:
        """Return a copy of the next message, u8 [size], and free its room."""
        block = np.frombuffer(self._memory, np.uint8, size, self._offset(end - size)).copy()
        self._consumed[0] = end
        return block
