"""Input memory: blocks never overlap, and are free only after the reader has released them."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.errors import Overloaded, TooLarge
from service.multiprocess.input_memory import InputMemoryReader, InputMemoryWriter
from service.multiprocess.tensor_message import TensorMessage, read

SIZE = 2**14


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = os.memfd_create("test")
    os.truncate(descriptor, SIZE)
    yield descriptor
    os.close(descriptor)


def message(size: int, value: int = 0) -> TensorMessage:
    return TensorMessage({}, [{"x": np.full(size, value, np.uint8)}])


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 7)), max_size=60))
def test_no_block_is_overwritten_while_it_is_in_use(steps: list[tuple[int, int]]) -> None:
    descriptor = os.memfd_create("test")
    os.truncate(descriptor, SIZE)
    writer, reader = InputMemoryWriter(descriptor), InputMemoryReader(descriptor)
    os.close(descriptor)
    in_use: list[tuple[NDArray[np.uint8], int]] = []

    def send(size: int, value: int) -> None:
        sent = message(size, value)
        try:
            offset = writer.put(sent)
        except Overloaded:
            in_use.pop(0)
            return
        in_use.append((read(reader.block(offset, sent.size))[1][0]["x"], value))
        writer.free(offset)  # as after the answer, while the reader still uses it

    for value, (size, drop) in enumerate(steps):
        send(size, value % 256)
        if drop == 0 and in_use:
            in_use.pop(len(in_use) // 2)
        assert all((array == wanted).all() for array, wanted in in_use)
    in_use.clear()
    assert writer.used_bytes == 0


def test_a_view_of_a_view_keeps_its_block(memory: int) -> None:
    writer, reader = InputMemoryWriter(memory), InputMemoryReader(memory)
    sent = message(100)
    offset = writer.put(sent)
    block = reader.block(offset, sent.size)
    view = read(block)[1][0]["x"][10:20].reshape(2, 5)
    writer.free(offset)
    del block
    gc.collect()
    assert writer.used_bytes == sent.size
    del view
    assert writer.used_bytes == 0


def test_a_released_block_is_not_free_before_the_writer_frees_it(memory: int) -> None:
    writer, reader = InputMemoryWriter(memory), InputMemoryReader(memory)
    sent = message(100)
    offset = writer.put(sent)
    reader.block(offset, sent.size)  # read and released at once
    assert writer.used_bytes == sent.size
    writer.free(offset)
    assert writer.used_bytes == 0


def test_a_full_memory_rejects_for_now(memory: int) -> None:
    writer, reader = InputMemoryWriter(memory), InputMemoryReader(memory)
    sent = message(SIZE // 2)
    offset = writer.put(sent)
    with pytest.raises(Overloaded) as refused:
        writer.put(message(SIZE // 2))
    assert refused.value.reason == "inflight_bytes" and refused.value.retry_after_seconds
    reader.block(offset, sent.size)
    writer.free(offset)
    assert writer.put(message(SIZE // 2)) == offset


def test_a_message_that_never_fits_is_too_large(memory: int) -> None:
    with pytest.raises(TooLarge, match=f"the limit is {SIZE} bytes"):
        InputMemoryWriter(memory).put(message(SIZE))


def test_adjacent_gaps_are_merged(memory: int) -> None:
    writer, reader = InputMemoryWriter(memory), InputMemoryReader(memory)
    small = message(1000)
    offsets = [writer.put(small) for _ in range(SIZE // small.size)]
    for offset in [*offsets[::2], *offsets[1::2]]:
        reader.block(offset, small.size)
        writer.free(offset)
    assert writer.put(message(SIZE - 256)) == 0
