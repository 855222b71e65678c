"""Tensor messages: what is read is what was written."""

from __future__ import annotations

import mmap

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.multiprocess.tensor_message import ALIGNMENT, TensorMessage, read

DTYPES = st.sampled_from(["u1", "f2", "f4", "f8", "i4", "i8", "?"])
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
ROWS = st.lists(st.dictionaries(st.text(max_size=5), ARRAYS, max_size=3), max_size=4)


@settings(max_examples=50)
@given(rows=ROWS, text=st.text(), before=st.integers(0, 3))
def test_what_is_read_is_what_was_written(
    rows: list[dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]], text: str, before: int
) -> None:
    message = TensorMessage({"text": text, "numbers": [1, 2.5]}, rows)
    offset = before * ALIGNMENT
    memory = mmap.mmap(-1, offset + message.size)
    message.write(memory, offset)
    header, got = read(np.frombuffer(memory, np.uint8, message.size, offset))
    assert header == {"text": text, "numbers": [1, 2.5]}
    assert len(got) == len(rows)
    for row, wanted in zip(got, rows, strict=True):
        assert row.keys() == wanted.keys()
        for name, array in wanted.items():
            assert row[name].dtype == array.dtype
            np.testing.assert_array_equal(row[name], array)


def test_arrays_that_are_not_contiguous_arrive_complete() -> None:
    array = np.arange(24).reshape(4, 6)[::2, ::-1]
    message = TensorMessage({}, [{"x": array}])
    memory = mmap.mmap(-1, message.size)
    message.write(memory, 0)
    _, rows = read(np.frombuffer(memory, np.uint8, message.size))
    np.testing.assert_array_equal(rows[0]["x"], array)


def test_arrays_are_aligned() -> None:
    message = TensorMessage({"a": "b"}, [{"x": np.zeros(3, np.uint8), "y": np.zeros(5)}, {"x": np.ones(1)}])
    memory = mmap.mmap(-1, message.size)
    message.write(memory, 0)
    _, rows = read(np.frombuffer(memory, np.uint8, message.size))
    addresses = [array.ctypes.data for row in rows for array in row.values()]
    assert {address % ALIGNMENT for address in addresses} == {0}
