"""What a sweep runs: items like those of the version's golden arrays.

Fixed shapes: the golden items again and again. Ragged ones: golden items cut or repeated to lengths that
are log-normal, because nobody's texts or recordings are all of one length. Cost is what the task says:
tokens or samples.
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
class Sample:
    """An item.

    Attributes:
        inputs: The graph's inputs without the batch axis.
    """

    inputs: Mapping[str, NDArray[Any]]
    cost: int


def samples(folder: Path, facts: VersionFacts, count: int, seed: int = 0) -> list[Sample]:
    """Make items, sorted by cost.

    Args:
        folder: The version's folder.
        facts: Its facts.
        count: How many.
        seed: Of the lengths.

    Raises:
        ModelRejected: The golden arrays cannot be read.
    """
    golden, _ = read_golden_arrays(folder)
    if facts.input.kind == "image":
        rows = len(next(iter(golden.values())))
        return [Sample({name: array[i % rows] for name, array in golden.items()}, 1) for i in range(count)]
    made = (_sized(golden, i, length) for i, length in enumerate(lengths(facts.input, count, seed)))
    return sorted(made, key=lambda sample: sample.cost)


def lengths(spec: TextInput | AudioInput, count: int, seed: int) -> list[int]:
    """Draw lengths in tokens or samples, within what the version takes."""
    if isinstance(spec, TextInput):
        least, median, most = 2, min(_MEDIAN_TOKENS, spec.max_tokens), spec.max_tokens
    else:
        bounds = (spec.min_seconds, min(_MEDIAN_SECONDS, spec.max_seconds), spec.max_seconds)
        least, median, most = (round(seconds * spec.sample_rate) for seconds in bounds)
    drawn = np.random.default_rng(seed).lognormal(math.log(median), _SPREAD, count)
    return [int(length) for length in np.clip(np.round(drawn), least, most)]


def _sized(golden: Mapping[str, NDArray[Any]], number: int, length: int) -> Sample:
    """Cut or repeat a golden item to a length; `lengths` and `attention_mask` say that all of it counts."""
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
    return Sample(inputs, length)


def _real_length(golden: Mapping[str, NDArray[Any]], row: int, padded: int) -> int:
    """Tell how much of a golden row is not padding."""
    if "attention_mask" in golden:
        return max(1, int(golden["attention_mask"][row].sum()))
    return max(1, int(golden["lengths"][row])) if "lengths" in golden else padded
