"""The interface of a task, and the limits on what a client may send."""

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
    """Limits on the decoded size of one item.

    Attributes:
        max_pixels: Largest width x height of an image before resizing.
        max_audio_seconds: Longest recording.
    """

    max_pixels: int = 50_000_000
    max_audio_seconds: float = 3600.0


@dataclass(frozen=True, slots=True)
class Decoded:
    """One decoded item, ready for the queue.

    Attributes:
        parts: The graph's inputs without the batch axis; several if a long item was segmented.
        costs: The cost of each part in a batch: 1 for an image, tokens of a text, samples of audio.
        context: What `answer` needs besides the outputs, by name.
        seconds: Length of a recording; 0 for anything else.
    """

    parts: tuple[Inputs, ...]
    costs: tuple[int, ...]
    context: Mapping[str, object] = field(default_factory=dict)
    seconds: float = 0.0


class StatedSeconds(Protocol):
    """Reads the length of a recording from its header."""

    def __call__(self, body: bytes) -> float:
        """Return seconds; 0 if the header states none."""


class Task(Protocol):
    """A task for one version, with the version's labels, tokenizer and word list loaded.

    All errors of a client are found by `from_json` and `decode`, before the queue.

    Attributes:
        parameters: The class of the request's parameters.
        media_type: The media type of a raw body.
        inputs: Dtypes of the graph's inputs, by name; `outputs` likewise.
        result: The typed dictionary that `answer` returns.
        labels: Names of the classes, in the order of the graph's outputs.
        stated_seconds: Returns the seconds that a recording's header states; None for tasks whose items are
            short. Long items have a longer default deadline, and are answered in a thread.
        quick_size: Largest raw item, in bytes or characters, that is decoded without a thread, because
            decoding is faster than waking one.
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
        """Load what the task needs besides the graph.

        Raises:
            ModelRejected: A file is missing or invalid, or `version.yaml` describes another task.
        """

    @staticmethod
    def from_json(value: object) -> Raw:
        """Return the raw item of a JSON value.

        Raises:
            InvalidInput: The value has the wrong type or is not base64.
        """

    def decode(self, raw: Raw, limits: Limits, parameters: BaseModel, declared_type: str = "") -> Decoded:
        """Return the graph's inputs for one raw item.

        Raises:
            InvalidInput, TooLarge, UnsupportedMedia: The task does not accept the item.
        """

    def answer(self, parts: Sequence[Outputs], decoded: Decoded, parameters: BaseModel) -> Result:
        """Return the result of one item, from the outputs of its parts without the batch axis."""

    def check_outputs(self, outputs: Outputs) -> None:
        """Check the shapes and ranges of a batch's outputs.

        Raises:
            ModelRejected: The outputs do not match the task or the labels.
        """

    def differences(self, expected: Outputs, got: Outputs) -> dict[str, float]:
        """Compare a batch's outputs with those of PyTorch.

        Returns:
            The largest absolute difference, by output name; infinite or NaN if they cannot be compared.
        """

    def agrees(self, expected: Result, got: Result, tolerance: float) -> str | None:
        """Compare a golden answer with the version's answer.

        Returns:
            None if they agree, else what differs.
        """


def largest_differences(expected: Outputs, got: Outputs) -> dict[str, float]:
    """Return the largest absolute difference of each array; see `Task.differences`."""
    with np.errstate(invalid="ignore"):  # infinity minus infinity is NaN, which every tolerance check refuses
        return {
            name: float(np.abs(got[name].astype(np.float64) - wanted.astype(np.float64)).max(initial=0.0))
            for name, wanted in expected.items()
        }


def answer_one(
    task: Task, run: Callable[[Inputs], Outputs], raw: Raw, limits: Limits, parameters: BaseModel
) -> Result:
    """Return the answer to one raw item, computed without a queue.

    Args:
        task: The version's task.
        run: Runs the graph on a batch.
        raw: The item.
        limits: Limits on its decoded size.
        parameters: An object of the task's parameter class.

    Raises:
        InvalidInput, TooLarge, UnsupportedMedia: The task does not accept the item.
    """
    decoded = task.decode(raw, limits, parameters)
    parts = []
    for part in decoded.parts:
        outputs = run({name: array[np.newaxis] for name, array in part.items()})
        parts.append({name: array[0] for name, array in outputs.items()})
    return task.answer(parts, decoded, parameters)
