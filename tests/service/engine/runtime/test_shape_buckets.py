"""Buckets: few, near, never beyond what the graph takes; padding repeats what is there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.runtime.shape_buckets import Buckets, pad


def test_sizes_of_a_batch_go_by_powers_of_two_and_the_steps_between() -> None:
    assert Buckets(1).ladder() == [1]
    assert Buckets(32).ladder() == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]
    assert Buckets(20).ladder() == [1, 2, 3, 4, 6, 8, 12, 16, 20]


@given(st.integers(1, 4096), st.data())
def test_a_batch_is_padded_to_a_bucket_that_is_less_than_half_larger(most: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, most))
    size = Buckets(most).items(count)
    assert count <= size <= most
    assert size in Buckets(most).ladder()
    assert size < 1.5 * count


@given(st.integers(1, 500_000), st.integers(0, 500_000))
def test_a_length_is_padded_by_an_eighth_at_most_and_never_beyond_the_limit(size: int, more: int) -> None:
    buckets = Buckets(1, max_length=size + more)
    length = buckets.length(size)
    assert size <= length <= size + more
    assert length < size + max(8, size / 8)
    assert buckets.length(length) == length


def test_lengths_fall_into_few_buckets() -> None:
    buckets = Buckets(1)
    assert len({buckets.length(size) for size in range(1, 513)}) <= 40


def test_all_lengths_that_a_graph_takes_have_known_buckets() -> None:
    assert Buckets(1, 60).lengths(17) == [24, 32, 40, 48, 56, 60]
    assert Buckets(1, 300).lengths(250) == [256, 288, 300]
    assert Buckets(1, 9).lengths(9) == [9]
    assert Buckets(1, 25).lengths(17) == [24, 25]
    assert Buckets(1).lengths(17) == [24]
    assert [Buckets(1).length(size) for size in (1, 8, 9, 128, 129, 257)] == [8, 8, 16, 128, 144, 288]


def test_a_length_beyond_the_limit_stays_as_it_is() -> None:
    assert Buckets(1, 60).length(61) == 61


def test_a_batch_beyond_the_largest_stays_as_it_is() -> None:
    assert Buckets(8).items(9) == 9


def test_only_dynamic_axes_are_padded() -> None:
    assert Buckets(8, 100).shape((5, 30, 30), (None, None, 30)) == (6, 32, 30)
    assert Buckets(8).shape((5,), (None,)) == (6,)
    with pytest.raises(ValueError, match="shorter"):
        Buckets(8).shape((5, 30), (None,))


def test_padding_puts_zeros_behind_each_row_and_repeats_the_last_item() -> None:
    target = np.full((4, 3), 9)
    pad(np.array([[1, 2], [3, 4]]), target)
    assert target.tolist() == [[1, 2, 0], [3, 4, 0], [3, 4, 0], [3, 4, 0]]
