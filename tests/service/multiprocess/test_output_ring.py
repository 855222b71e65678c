"""Output ring: messages come out in order and complete, and their room is used again."""

from __future__ import annotations

import os
from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.multiprocess.output_ring import OutputRingReader, OutputRingWriter
from service.multiprocess.tensor_message import ALIGNMENT, TensorMessage, read

SIZE = 2**13


def ends() -> tuple[OutputRingWriter, OutputRingReader]:
    descriptor = os.memfd_create("test")
    os.truncate(descriptor, SIZE)
    both = OutputRingWriter(descriptor), OutputRingReader(descriptor)
    os.close(descriptor)
    return both


def message(size: int, value: int = 0) -> TensorMessage:
    return TensorMessage({"value": value}, [{"x": np.full(size, value % 256, np.uint8)}])


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 3)), max_size=80))
def test_messages_come_out_in_order_and_complete(steps: list[tuple[int, int]]) -> None:
    writer, reader = ends()
    inside: deque[tuple[int, int, int]] = deque()

    def take() -> None:
        end, size, value = inside.popleft()
        header, rows = read(reader.take(end, size))
        assert header == {"value": value}
        assert (rows[0]["x"] == value % 256).all()

    for value, (size, takes) in enumerate(steps):
        sent = message(size, value)
        while (end := writer.put(sent)) is None:
            take()  # would find nothing to take if an empty ring had no room
        inside.append((end, sent.size, value))
        for _ in range(min(takes, len(inside))):
            take()
    while inside:
        take()


@pytest.mark.parametrize("before", [0, 100, 3000])
def test_an_empty_ring_has_room_for_a_message_of_its_whole_capacity(before: int) -> None:
    writer, reader = ends()
    if before:
        first = message(before)
        end = writer.put(first)
        assert end is not None
        reader.take(end, first.size)
    largest = message(writer.capacity - ALIGNMENT)
    assert largest.size == writer.capacity
    end = writer.put(largest)
    assert end is not None
    assert writer.put(message(0)) is None
    reader.take(end, largest.size)
    assert writer.put(message(0)) is not None


def test_a_message_that_was_read_is_not_changed_by_later_ones() -> None:
    writer, reader = ends()
    sent = message(4000, 1)
    end = writer.put(sent)
    assert end is not None
    _, rows = read(reader.take(end, sent.size))
    assert writer.put(message(4000, 2)) is not None
    assert (rows[0]["x"] == 1).all()
