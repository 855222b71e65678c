"""Tensors that a caller made itself, against a graph's inputs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from service.errors import InvalidInput, TooLarge
from service.inference.tensors import decode_tensors
from service.repository.manifest import AudioInput, ImageInput, TextInput

IMAGE = {"image": "uint8"}, ImageInput(width=4, height=3, channels=3)
TEXT = {"input_ids": "int64", "attention_mask": "int64"}, TextInput(max_tokens=5)
AUDIO = {"audio": "float32", "lengths": "int64"}, AudioInput(sample_rate=4000, max_seconds=0.01)


def version(kind: tuple[dict[str, str], Any]) -> Any:
    """A version of a model that takes such inputs."""
    inputs, spec = kind
    return SimpleNamespace(task=SimpleNamespace(inputs=inputs), facts=SimpleNamespace(input=spec))


def text(tokens: int, mask: int | None = None) -> dict[str, Any]:
    ids, ones = np.ones(tokens, np.int64), np.ones(tokens if mask is None else mask, np.int64)
    return {"input_ids": ids, "attention_mask": ones}


def audio(samples: int) -> dict[str, Any]:
    return {"audio": np.zeros(samples, np.float32), "lengths": np.array(samples, np.int64)}


@pytest.mark.parametrize(
    ("kind", "tensors", "cost"),
    [
        (IMAGE, {"image": np.zeros((3, 4, 3), np.uint8)}, 1),
        (TEXT, text(1), 1),
        (TEXT, text(5), 5),
        (AUDIO, audio(40), 40),
    ],
)
def test_what_fits_is_one_part_with_its_cost(kind: Any, tensors: Any, cost: int) -> None:
    decoded = decode_tensors(tensors, version(kind))
    assert decoded.parts == (tensors,)
    assert decoded.costs == (cost,)


@pytest.mark.parametrize(("kind", "tensors"), [(TEXT, text(6)), (AUDIO, audio(41))])
def test_one_more_than_the_limit_is_too_large(kind: Any, tensors: Any) -> None:
    with pytest.raises(TooLarge):
        decode_tensors(tensors, version(kind))


def test_the_message_names_both_shapes() -> None:
    with pytest.raises(InvalidInput, match=r"not input_ids \[3\], attention_mask \[2\]$"):
        decode_tensors(text(3, mask=2), version(TEXT))
