"""The arena: blocks never overlap, and are free again only when the reader has let go of them."""

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
from service.multiprocess.input_memory import Borrowed, InputMemory
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
def test_no_block_is_touched_while_it_is_borrowed(steps: list[tuple[int, int]]) -> None:
    descriptor = os.memfd_create("test")
    os.truncate(descriptor, SIZE)
    writer, reader = InputMemory(descriptor), Borrowed(descriptor)
    os.close(descriptor)
    held: list[tuple[NDArray[np.uint8], int]] = []

    def borrow(size: int, value: int) -> None:
        sent = message(size, value)
        try:
            offset = writer.put(sent)
        except Overloaded:
            held.pop(0)
            return
        held.append((read(reader.block(offset, sent.size))[1][0]["x"], value))
        writer.give_back(offset)  # as if answered already: the reader still looks at it

    for value, (size, drop) in enumerate(steps):
        borrow(size, value % 256)
        if drop == 0 and held:
            held.pop(len(held) // 2)
        assert all((array == wanted).all() for array, wanted in held)
    held.clear()
    assert writer.taken_bytes == 0


def test_a_view_of_a_view_keeps_its_block(memory: int) -> None:
    writer, reader = InputMemory(memory), Borrowed(memory)
    sent = message(100)
    offset = writer.put(sent)
    block = reader.block(offset, sent.size)
    view = read(block)[1][0]["x"][10:20].reshape(2, 5)
    writer.give_back(offset)
    del block
    gc.collect()
    assert writer.taken_bytes == sent.size
    del view
    assert writer.taken_bytes == 0


def test_an_answered_block_is_not_free_before_its_writer_says_so(memory: int) -> None:
    writer, reader = InputMemory(memory), Borrowed(memory)
    sent = message(100)
    offset = writer.put(sent)
    reader.block(offset, sent.size)  # borrowed and let go at once
    assert writer.taken_bytes == sent.size
    writer.give_back(offset)
    assert writer.taken_bytes == 0


def test_a_full_arena_refuses_for_now(memory: int) -> None:
    writer, reader = InputMemory(memory), Borrowed(memory)
    sent = message(SIZE // 2)
    offset = writer.put(sent)
    with pytest.raises(Overloaded) as refused:
        writer.put(message(SIZE // 2))
    assert refused.value.reason == "inflight_bytes" and refused.value.retry_after_seconds
    reader.block(offset, sent.size)
    writer.give_back(offset)
    assert writer.put(message(SIZE // 2)) == offset


def test_what_would_never_fit_is_too_large(memory: int) -> None:
    with pytest.raises(TooLarge, match=f"the limit is {SIZE} bytes"):
        InputMemory(memory).put(message(SIZE))


def test_gaps_grow_together_again(memory: int) -> None:
    writer, reader = InputMemory(memory), Borrowed(memory)
    small = message(1000)
    offsets = [writer.put(small) for _ in range(SIZE // small.size)]
    for offset in [*offsets[::2], *offsets[1::2]]:
        reader.block(offset, small.size)
        writer.give_back(offset)
    assert writer.put(message(SIZE - 256)) == 0
