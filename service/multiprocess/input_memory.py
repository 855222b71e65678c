"""Shared memory that one process fills with messages and another reads in place: inputs, worker to engine.

The writer owns the space: it takes a block, and has it back once the reader has let go of every array in
it, which may be long after the answer (a row that is still being copied) or before (an answer on its way).
The reader tells by setting the block's first word, from whichever thread drops the last array.
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

_LET_GO = struct.Struct("<I")


class InputMemory:
    """The writer's side: finds room. Its methods may be called from any thread.

    Args:
        descriptor: The memory's file; its size is all there is.
    """

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, 0)
        self._free = [(0, len(self._memory))]  # offset and size of every gap, in order, none beside another
        self._taken: dict[int, int] = {}
        self._awaited: set[int] = set()  # given back by the writer, not yet let go by the reader
        self._lock = threading.Lock()

    @property
    def taken_bytes(self) -> int:
        """Bytes that are not free."""
        with self._lock:
            self._reclaim()
            return sum(self._taken.values())

    def put(self, message: TensorMessage) -> int:
        """Write a message.

        Returns:
            Where it lies.

        Raises:
            TooLarge: It is larger than the whole memory.
            Overloaded: There is no room for it now.
        """
        if message.size > len(self._memory):
            raise TooLarge(
                f"the request's tensors take {message.size} bytes; the limit is {len(self._memory)} bytes"
            )
        with self._lock:
            self._reclaim()
            offset = self._take(message.size)
        message.write(self._memory, offset)
        return offset

    def give_back(self, offset: int) -> None:
        """Free a block as soon as the reader has let go of it."""
        with self._lock:
            if self._is_let_go(offset):
                self._release(offset)
            else:
                self._awaited.add(offset)

    def _take(self, size: int) -> int:
        """Take the first gap that is large enough: low addresses stay warm."""
        for index, (offset, room) in enumerate(self._free):
            if room >= size:
                self._free[index : index + 1] = [(offset + size, room - size)] if room > size else []
                self._taken[offset] = size
                return offset
        raise Overloaded("the way to the engine is full of other requests' tensors", reason="inflight_bytes")

    def _reclaim(self) -> None:
        for offset in [offset for offset in self._awaited if self._is_let_go(offset)]:
            self._awaited.remove(offset)
            self._release(offset)

    def _is_let_go(self, offset: int) -> bool:
        return bool(_LET_GO.unpack_from(self._memory, offset)[0])

    def _release(self, offset: int) -> None:
        """Make a block a gap, joined with the gaps beside it."""
        size = self._taken.pop(offset)
        index = bisect.bisect(self._free, (offset,))
        if index < len(self._free) and self._free[index][0] == offset + size:
            size += self._free.pop(index)[1]
        if index > 0 and sum(self._free[index - 1]) == offset:
            index -= 1
            before, room = self._free.pop(index)
            offset, size = before, room + size
        self._free.insert(index, (offset, size))


class Borrowed:
    """The reader's side: blocks that it lets go of when nobody in this process refers to them any more."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, 0)
        self._blocks: dict[int, weakref.ref[NDArray[np.uint8]]] = {}

    def block(self, offset: int, size: int) -> NDArray[np.uint8]:
        """Borrow a block: u8 [size]. Views of it, and views of those, count as references to it."""
        block = np.frombuffer(self._memory, np.uint8, size, offset)
        self._blocks[offset] = weakref.ref(block, partial(self._let_go, offset))
        return block

    def _let_go(self, offset: int, _: object) -> None:
        del self._blocks[offset]
        _LET_GO.pack_into(self._memory, offset, 1)
