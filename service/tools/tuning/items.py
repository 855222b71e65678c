"""Items for a sweep, made from the version's golden arrays.

Inputs of fixed shape repeat the golden items. For texts and recordings, golden items are cut or repeated to
log-normal lengths. The cost of an item is its number of tokens or samples, as for the task.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.repository.golden import read_golden_arrays
from service.repository.manifest import AudioInput, TextInput, VersionFacts

_MEDIAN_TOKENS = 32
_MEDIAN_SECONDS = 3.0
_SPREAD = 0.8  # standard deviation of the logarithm of a length


@dataclass(frozen=True, slots=True)
class TuningItem:
    """An item.

    Attributes:
        inputs: The graph's inputs without the batch axis.
        cost: 1 for an image, else its length.
    """

    inputs: Mapping[str, NDArray[Any]]
    cost: int


def make_items(folder: Path, facts: VersionFacts, count: int, seed: int = 0) -> list[TuningItem]:
    """Return items, sorted by cost.

    Args:
        folder: The version's folder.
        facts: Contents of its `version.yaml`.
        count: Number of items.
        seed: Of the lengths.

    Raises:
        ModelRejected: The golden arrays cannot be read.
    """
    golden, _ = read_golden_arrays(folder)
    if facts.input.kind == "image":
        rows = len(next(iter(golden.values())))
        return [
            TuningItem({name: array[i % rows] for name, array in golden.items()}, 1) for i in range(count)
        ]
    made = (_sized(golden, i, length) for i, length in enumerate(lengths(facts.input, count, seed)))
    return sorted(made, key=lambda item: item.cost)


def lengths(spec: TextInput | AudioInput, count: int, seed: int) -> list[int]:
    """Draw lengths in tokens or samples, within the limits of the version."""
    if isinstance(spec, TextInput):
        least, median, most = 2, min(_MEDIAN_TOKENS, spec.max_tokens), spec.max_tokens
    else:
        bounds = (spec.min_seconds, min(_MEDIAN_SECONDS, spec.max_seconds), spec.max_seconds)
        least, median, most = (round(seconds * spec.sample_rate) for seconds in bounds)
    drawn = np.random.default_rng(seed).lognormal(math.log(median), _SPREAD, count)
    return [int(length) for length in np.clip(np.round(drawn), least, most)]


def _sized(golden: Mapping[str, NDArray[Any]], number: int, length: int) -> TuningItem:
    """Return a golden item cut or repeated to a length, without padding."""
    inputs: dict[str, NDArray[Any]] = {}
    for name, array in golden.items():
        row = array[number % len(array)]
        if name == "attention_mask":
            inputs[name] = np.ones(length, dtype=row.dtype)
        elif row.ndim == 0:
            inputs[name] = np.array(length, dtype=row.dtype)
        else:
            real = _real_length(golden, number % len(array), len(row))
            inputs[name] = np.resize(row[:real], length)
    return TuningItem(inputs, length)


def _real_length(golden: Mapping[str, NDArray[Any]], row: int, padded: int) -> int:
    """Return the length of a golden row without its padding."""
    if "attention_mask" in golden:
        return max(1, int(golden["attention_mask"][row].sum()))
    return max(1, int(golden["lengths"][row])) if "lengths" in golden else padded
