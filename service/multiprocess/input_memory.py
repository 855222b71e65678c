"""Shared memory for input tensors: a worker writes messages, the engine reads them in place.

The writer allocates a block for each message. A block is free again when the writer has freed it and the
reader has released it. The reader releases a block when no array of this process refers to it any more.
That can be long after the request's answer, when a row is still being copied, or before it. To release a
block, the reader sets the block's first word; this may happen in any thread.
"""

from __future__ import annotations

import bisect
import mmap
import struct
import threading
import weakref
from functools import partial

import numpy as np
from numpy.typing import NDArray

from service.errors import Overloaded, TooLarge
from service.multiprocess.tensor_message import TensorMessage

_RELEASED = struct.Struct("<I")


class InputMemoryWriter:
    """Allocates blocks, first fit, and writes messages. All methods may be called from any thread.

    Args:
        descriptor: File descriptor of the shared memory; all of the file is used.
    """

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, 0)
        self._gaps = [(0, len(self._memory))]  # offset and size of the free gaps, sorted, never adjacent
        self._blocks: dict[int, int] = {}  # sizes of allocated blocks by offset
        self._unreleased: set[int] = set()  # freed by the writer, not yet released by the reader
        self._lock = threading.Lock()

    @property
    def used_bytes(self) -> int:
        """Bytes of all allocated blocks."""
        with self._lock:
            self._reclaim()
            return sum(self._blocks.values())

    def put(self, message: TensorMessage) -> int:
        """Write a message.

        Returns:
            The offset of its block.

        Raises:
            TooLarge: The message is larger than the whole memory.
            Overloaded: There is no free gap that is large enough.
        """
        if message.size > len(self._memory):
            raise TooLarge(
                f"the request's tensors take {message.size} bytes; the limit is {len(self._memory)} bytes"
            )
        with self._lock:
            self._reclaim()
            offset = self._allocate(message.size)
        message.write(self._memory, offset)
        return offset

    def free(self, offset: int) -> None:
        """Free a block, as soon as the reader has released it."""
        with self._lock:
            if self._is_released(offset):
                self._deallocate(offset)
            else:
                self._unreleased.add(offset)

    def _allocate(self, size: int) -> int:
        """Use the first gap that is large enough: low addresses stay in the CPU's cache."""
        for index, (offset, room) in enumerate(self._gaps):
            if room >= size:
                self._gaps[index : index + 1] = [(offset + size, room - size)] if room > size else []
                self._blocks[offset] = size
                return offset
        raise Overloaded("the shared memory is full of other requests' tensors", reason="inflight_bytes")

    def _reclaim(self) -> None:
        for offset in [offset for offset in self._unreleased if self._is_released(offset)]:
            self._unreleased.remove(offset)
            self._deallocate(offset)

    def _is_released(self, offset: int) -> bool:
        return bool(_RELEASED.unpack_from(self._memory, offset)[0])

    def _deallocate(self, offset: int) -> None:
        """Turn a block into a gap, and merge it with adjacent gaps."""
        size = self._blocks.pop(offset)
        index = bisect.bisect(self._gaps, (offset,))
        if index < len(self._gaps) and self._gaps[index][0] == offset + size:
            size += self._gaps.pop(index)[1]
        if index > 0 and sum(self._gaps[index - 1]) == offset:
            index -= 1
            before, room = self._gaps.pop(index)
            offset, size = before, room + size
        self._gaps.insert(index, (offset, size))


class InputMemoryReader:
    """Gives access to blocks, and releases each when nothing in this process refers to it any more.

    Args:
        descriptor: File descriptor of the shared memory.
    """

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, 0)
        self._blocks: dict[int, weakref.ref[NDArray[np.uint8]]] = {}

    def block(self, offset: int, size: int) -> NDArray[np.uint8]:
        """Return a block, u8 [size]. Views of it, and views of those, count as references to it."""
        block = np.frombuffer(self._memory, np.uint8, size, offset)
        self._blocks[offset] = weakref.ref(block, partial(self._release, offset))
        return block

    def _release(self, offset: int, _: object) -> None:
        del self._blocks[offset]
        _RELEASED.pack_into(self._memory, offset, 1)
