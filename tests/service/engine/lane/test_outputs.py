"""Each item gets its own row, and only finite ones."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from service.engine.lane.outputs import WrongOutputs, check_rows, split_rows
from tests.service.engine.engine_tools import pending_of


def test_outputs_with_a_row_for_each_item_are_returned() -> None:
    outputs = {"a": np.zeros((2, 3)), "b": np.zeros(2)}
    assert check_rows(outputs, 2) is outputs


@pytest.mark.parametrize("wrong", [np.zeros((3, 2)), np.zeros((1, 2)), np.zeros(())])
def test_an_output_with_another_number_of_rows_is_named(wrong: NDArray[np.float64]) -> None:
    with pytest.raises(WrongOutputs, match="output b has shape"):
        check_rows({"a": np.zeros(2), "b": wrong}, 2)


async def test_rows_that_are_not_finite_in_any_output_are_set_apart() -> None:
    items = pending_of(0, 1, 2, 3).items
    outputs = {"a": np.array([0.5, np.nan, 2.5, 3.5]), "b": np.array([1, 1, np.inf, 1]), "c": np.arange(4)}
    pairs, not_finite = split_rows(items, outputs)
    assert [item.index for item in not_finite] == [1, 2]
    assert [(item.index, *(float(row[name]) for name in "abc")) for item, row in pairs] == [
        (0, 0.5, 1.0, 0.0),
        (3, 3.5, 1.0, 3.0),
    ]


async def test_outputs_without_numbers_are_not_checked() -> None:
    items = pending_of(0, 1).items
    pairs, not_finite = split_rows(items, {"text": np.array(["a", "b"]), "number": np.array([0.5, np.inf])})
    assert [(item.index, str(row["text"]), float(row["number"])) for item, row in pairs] == [(0, "a", 0.5)]
    assert [item.index for item in not_finite] == [1]
