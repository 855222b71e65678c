"""Messages in shared memory: a JSON header and arrays.

    | released: u32 | size of the header: u32 | header: JSON | … | array | … | array | …

Every array begins at a multiple of 64 bytes. Tensors are not serialised: the header has their dtypes,
shapes and offsets, and the reader makes views of the memory. `released` belongs to `input_memory`.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

ALIGNMENT = 64
Arrays = dict[str, NDArray[Any]]

_SIZES = struct.Struct("<II")


class TensorMessage:
    """A header and the arrays of each item, ready to be written.

    Args:
        header: Values that JSON can hold.
        rows: The arrays of each item, by name.

    Attributes:
        size: Bytes of the whole message, a multiple of `ALIGNMENT`.
    """

    def __init__(self, header: Mapping[str, object], rows: Sequence[Mapping[str, NDArray[Any]]] = ()) -> None:
        self._arrays: list[tuple[NDArray[Any], int]] = []
        layouts = []
        end = 0
        for row in rows:
            layout = {}
            for name, array in row.items():
                layout[name] = (array.dtype.str, array.shape, end)
                self._arrays.append((array, end))
                end += aligned(array.nbytes)
            layouts.append(layout)
        self._header = orjson.dumps({**header, "rows": layouts})
        self._start = _start_of_arrays(len(self._header))
        self.size = self._start + end

    def write(self, memory: mmap.mmap, offset: int) -> None:
        """Write the message to `memory` at `offset`."""
        begin = offset + _SIZES.size
        memory[begin : begin + len(self._header)] = self._header
        _SIZES.pack_into(memory, offset, 0, len(self._header))
        start = offset + self._start
        for array, array_offset in self._arrays:
            target: NDArray[Any] = np.ndarray(array.shape, array.dtype, memory, start + array_offset)
            target[...] = array


def read(block: NDArray[np.uint8]) -> tuple[dict[str, Any], list[Arrays]]:
    """Read a message.

    Args:
        block: u8 [size of the message].

    Returns:
        The header, and the arrays of each item: views, which keep the block alive.
    """
    _, header_size = _SIZES.unpack_from(block.data)
    header = orjson.loads(block[_SIZES.size : _SIZES.size + header_size].data)
    start = _start_of_arrays(header_size)
    rows = [
        {
            name: np.ndarray(shape, dtype, block, start + offset)
            for name, (dtype, shape, offset) in row.items()
        }
        for row in header.pop("rows")
    ]
    return header, rows


def aligned(size: int) -> int:
    """Return `size`, rounded up to a multiple of `ALIGNMENT`."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _start_of_arrays(header_size: int) -> int:
    return aligned(_SIZES.size + header_size)
