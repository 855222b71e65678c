"""A message: a JSON header and arrays, laid out in shared memory; written once, read where it lies.

    | let go: u32 | size of the header: u32 | header: JSON | … | array | … | array | …

Every array begins at a multiple of 64 bytes. Tensors are never serialised: only their dtypes and shapes
stand in the header. Whose memory it is, and when it is free again, is the business of `arena` and `ring`.
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
Row = dict[str, NDArray[Any]]

_SIZES = struct.Struct("<II")


class TensorMessage:
    """A header and rows of named arrays, ready to be written.

    Args:
        header: What JSON can hold.
        rows: One mapping of arrays an item.

    Attributes:
        size: Bytes that it takes, a multiple of `ALIGNMENT`.
    """

    def __init__(self, header: Mapping[str, object], rows: Sequence[Mapping[str, NDArray[Any]]] = ()) -> None:
        self._arrays: list[tuple[NDArray[Any], int]] = []
        places = []
        end = 0
        for row in rows:
            place = {}
            for name, array in row.items():
                place[name] = (array.dtype.str, array.shape, end)
                self._arrays.append((array, end))
                end += aligned(array.nbytes)
            places.append(place)
        self._header = orjson.dumps({**header, "rows": places})
        self._start = _start_of_arrays(len(self._header))
        self.size = self._start + end

    def write(self, memory: mmap.mmap, offset: int) -> None:
        """Write everything to `memory`, from `offset` on."""
        begin = offset + _SIZES.size
        memory[begin : begin + len(self._header)] = self._header
        _SIZES.pack_into(memory, offset, 0, len(self._header))
        for array, place in self._arrays:
            target: NDArray[Any] = np.ndarray(array.shape, array.dtype, memory, offset + self._start + place)
            target[...] = array


def read(block: NDArray[np.uint8]) -> tuple[dict[str, Any], list[Row]]:
    """Read the message that fills a block.

    Args:
        block: u8 [size of the message].

    Returns:
        The header, and one row of arrays an item: views, which keep the block alive.
    """
    _, header_size = _SIZES.unpack_from(block.data)
    header = orjson.loads(block[_SIZES.size : _SIZES.size + header_size].data)
    start = _start_of_arrays(header_size)
    rows = [
        {name: np.ndarray(shape, dtype, block, start + place) for name, (dtype, shape, place) in row.items()}
        for row in header.pop("rows")
    ]
    return header, rows


def aligned(size: int) -> int:
    """Round up to a multiple of `ALIGNMENT`."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _start_of_arrays(header_size: int) -> int:
    return aligned(_SIZES.size + header_size)
