"""What every task provides, and the limits that its decoding obeys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from numpy.typing import NDArray
from pydantic import BaseModel

from service.manifest import VersionFacts

Raw = bytes | str
Inputs = Mapping[str, NDArray[Any]]
Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what one item may unpack to.

    Attributes:
        max_pixels: Most pixels, width × height, of a picture before resizing.
    """

    max_pixels: int = 50_000_000


class Task(Protocol):
    """A task bound to one version: its labels, sizes and words are loaded.

    Everything a client can get wrong is found in `from_json` and `decode`, before the queue.

    Attributes:
        parameters: The class of the request's parameters.
        media_type: What a raw body is.
        inputs: Dtypes of the graph's inputs, by name; `outputs` likewise.
        result: The typed dictionary that `answer` gives.
        labels: Names of the classes, in the order of the graph's outputs.
    """

    name: ClassVar[str]
    parameters: ClassVar[type[BaseModel]]
    media_type: ClassVar[str]
    inputs: ClassVar[Mapping[str, str]]
    outputs: ClassVar[Mapping[str, str]]
    result: ClassVar[type]
    labels: tuple[str, ...]

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

    def decode(self, raw: Raw, limits: Limits, declared_type: str = "") -> Inputs:
        """Turn one raw item into the graph's inputs, without the batch axis.

        Raises:
            InvalidInput, TooLarge, UnsupportedMedia: The item is not what the task takes.
        """

    def cost(self, inputs: Inputs) -> int:
        """Tell what an item adds to a batch, in the task's own unit."""

    def answer(self, outputs: Outputs, parameters: BaseModel) -> Mapping[str, object]:
        """Turn one item's outputs, without the batch axis, into its result object."""

    def check_outputs(self, outputs: Outputs) -> None:
        """Check a batch's outputs against the labels.

        Raises:
            ModelRejected: Shapes do not fit.
        """

    def agrees(
        self, expected: Mapping[str, object], got: Mapping[str, object], tolerance: float
    ) -> str | None:
        """Compare a golden answer with one we got.

        Returns:
            None where they agree, else what differs.
        """
