"""What every task provides, and the limits that its decoding obeys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from service.repository.manifest import VersionFacts

Raw = bytes | str
Inputs = Mapping[str, NDArray[Any]]
Outputs = Mapping[str, NDArray[Any]]
Result = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what one item may unpack to.

    Attributes:
        max_pixels: Most pixels, width x height, of a picture before resizing.
        max_audio_seconds: Longest sound.
    """

    max_pixels: int = 50_000_000
    max_audio_seconds: float = 3600.0


@dataclass(frozen=True, slots=True)
class Decoded:
    """One raw item, ready for the queue.

    Attributes:
        parts: The graph's inputs without the batch axis; several where a long item was cut.
        costs: What each part adds to a batch, in the task's own unit.
        context: What `answer` needs to know of the item beside the outputs, by name.
        seconds: Length of a recording; 0 for anything else.
    """

    parts: tuple[Inputs, ...]
    costs: tuple[int, ...]
    context: Mapping[str, object] = field(default_factory=dict)
    seconds: float = 0.0


class StatedSeconds(Protocol):
    """Reads the length of a recording from its header."""

    def __call__(self, body: bytes) -> float:
        """Return seconds; 0 where the header states none."""


class Task(Protocol):
    """A task bound to one version: its labels, sizes and words are loaded.

    Everything a client can get wrong is found in `from_json` and `decode`, before the queue.

    Attributes:
        parameters: The class of the request's parameters.
        media_type: What a raw body is.
        inputs: Dtypes of the graph's inputs, by name; `outputs` likewise.
        result: The typed dictionary that `answer` gives.
        labels: Names of the classes, in the order of the graph's outputs.
        stated_seconds: Returns the seconds that a recording's header states; None where items are short. Long
            items have a longer default deadline, and are answered in a thread.
        quick_size: Largest raw item, in bytes or characters, that decodes faster than a thread is woken.
    """

    name: ClassVar[str]
    parameters: ClassVar[type[BaseModel]]
    media_type: ClassVar[str]
    inputs: ClassVar[Mapping[str, str]]
    outputs: ClassVar[Mapping[str, str]]
    result: ClassVar[type]
    stated_seconds: ClassVar[StatedSeconds | None]
    labels: tuple[str, ...]
    quick_size: int

    def __init__(self, folder: Path, facts: VersionFacts) -> None:
        """Load what the task needs beside the graph.

        Raises:
            ModelRejected: A file is missing or does not fit the facts.
        """

    @staticmethod
    def from_json(value: object) -> Raw:
        """Turn one JSON item into a raw item.

        Raises:
            InvalidInput: The value has the wrong type or is not base64.
        """

    def decode(self, raw: Raw, limits: Limits, parameters: BaseModel, declared_type: str = "") -> Decoded:
        """Turn one raw item into the graph's inputs.

        Raises:
            InvalidInput, TooLarge, UnsupportedMedia: The item is not what the task takes.
        """

    def answer(self, parts: Sequence[Outputs], decoded: Decoded, parameters: BaseModel) -> Result:
        """Turn the outputs of one item's parts, without the batch axis, into its result object."""

    def check_outputs(self, outputs: Outputs) -> None:
        """Check a batch's outputs against the labels.

        Raises:
            ModelRejected: Shapes do not fit.
        """

    def differences(self, expected: Outputs, got: Outputs) -> dict[str, float]:
        """Compare a batch's outputs with PyTorch's.

        Returns:
            The largest absolute difference, by output name; infinite or NaN where they cannot be compared.
        """

    def agrees(self, expected: Result, got: Result, tolerance: float) -> str | None:
        """Compare a golden answer with one we got.

        Returns:
            None where they agree, else what differs.
        """


def largest_differences(expected: Outputs, got: Outputs) -> dict[str, float]:
    """Compare arrays number by number; see `Task.differences`."""
    with np.errstate(invalid="ignore"):  # infinite minus infinite is NaN, which no tolerance allows
        return {
            name: float(np.abs(got[name].astype(np.float64) - wanted.astype(np.float64)).max(initial=0.0))
            for name, wanted in expected.items()
        }


def answer_one(
    task: Task, run: Callable[[Inputs], Outputs], raw: Raw, limits: Limits, parameters: BaseModel
) -> Result:
    """Answer one raw item without a queue: what a client would get for it.

    Args:
        task: Bound to the version.
        run: Runs the graph on a batch.
        raw: The item.
        limits: Bounds on what it may unpack to.
        parameters: Of the task's class.

    Raises:
        InvalidInput, TooLarge, UnsupportedMedia: The item is not what the task takes.
    """
    decoded = task.decode(raw, limits, parameters)
    parts = []
    for part in decoded.parts:
        outputs = run({name: array[np.newaxis] for name, array in part.items()})
        parts.append({name: array[0] for name, array in outputs.items()})
    return task.answer(parts, decoded, parameters)
