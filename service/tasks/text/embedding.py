"""The task `text-embedding`: texts in, vectors of length 1 out.

Pooling and normalising are nodes of the graph. Array shapes: `N` batch, `D` dimensions of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import (
    Annotated,
    ClassVar,
    Literal,
    NotRequired,  # pydantic reads typing's own from Python 3.12 on
    cast,
)

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from service.errors import ModelRejected, ValidationFailed
from service.repository.manifest import VersionFacts
from service.tasks.task import Decoded, Limits, Outputs, Raw, Result, StatedSeconds, largest_differences
from service.tasks.text.tokenization import (
    INPUTS,
    QUICK_CHARACTERS,
    TextParameters,
    TextTokenizer,
    text_from_json,
)


class EmbeddingParameters(TextParameters):
    """Parameters of text embedding, with OpenAI's names.

    Attributes:
        dimensions: Keep this many leading numbers and normalise again, for models trained for it.
        encoding_format: A list of numbers, or base64 of little-endian float32.
    """

    dimensions: Annotated[int, Field(ge=1, description="Keep this many leading numbers.")] | None = None
    encoding_format: Literal["float", "base64"] = "float"


class Embedding(TypedDict):
    """The result of one text: a vector of length 1."""

    embedding: list[float]
    truncated: NotRequired[bool]


class TextEmbedding:
    """`text-embedding` for one version."""

    name: ClassVar[str] = "text-embedding"
    parameters: ClassVar[type[BaseModel]] = EmbeddingParameters
    media_type: ClassVar[str] = "text/plain"
    inputs: ClassVar[Mapping[str, str]] = INPUTS
    outputs: ClassVar[Mapping[str, str]] = {"embedding": "float32"}
    result: ClassVar[type] = Embedding
    stated_seconds: ClassVar[StatedSeconds | None] = None

    def __init__(self, folder: Path, facts: VersionFacts) -> None:
        self.labels: tuple[str, ...] = ()
        self.quick_size = QUICK_CHARACTERS
        self._tokenizer = TextTokenizer(folder, facts)
        self._dimensions = 0  # set by `check_outputs`, which runs before the version answers

    @staticmethod
    def from_json(value: object) -> Raw:
        """Return one text."""
        return text_from_json(value)

    def decode(self, raw: Raw, limits: Limits, parameters: BaseModel, declared_type: str = "") -> Decoded:
        """Return the token ids of one text; see `TextTokenizer.tokenize`.

        Raises:
            ValidationFailed: More dimensions are requested than the model has.
        """
        wanted = cast(EmbeddingParameters, parameters)
        if wanted.dimensions is not None and self._dimensions and wanted.dimensions > self._dimensions:
            raise ValidationFailed(
                f"{wanted.dimensions} dimensions were requested, the model has {self._dimensions}",
                param="dimensions",
            )
        return self._tokenizer.tokenize(raw, truncate=wanted.truncate, declared_type=declared_type)

    def answer(self, parts: Sequence[Outputs], decoded: Decoded, parameters: BaseModel) -> Result:
        """Return `embedding` f32 [D], shortened if `dimensions` asks for it."""
        vector = shorten_embedding(parts[0]["embedding"], cast(EmbeddingParameters, parameters).dimensions)
        truncated = {"truncated": True} if decoded.context.get("truncated") else {}
        return {"embedding": vector, **truncated}

    def check_outputs(self, outputs: Outputs) -> None:
        """Check that every embedding has length 1."""
        embedding = outputs["embedding"]
        if embedding.ndim != 2:
            raise ModelRejected(f"output embedding has shape {list(embedding.shape)}, expected [N, D]")
        worst = float(np.abs(np.linalg.norm(embedding, axis=1) - 1.0).max(initial=0.0))
        if not worst < 1e-3:
            raise ModelRejected(f"output embedding does not have length 1: off by {worst:.3g}")
        self._dimensions = int(embedding.shape[1])

    def differences(self, expected: Outputs, got: Outputs) -> dict[str, float]:
        """Compare the vectors number by number."""
        return largest_differences(expected, got)

    def agrees(self, expected: Result, got: Result, tolerance: float) -> str | None:
        """Compare two vectors number by number."""
        try:
            wanted = np.asarray(expected.get("embedding"), dtype=np.float64)
        except (TypeError, ValueError):
            wanted = np.zeros(0)
        vector = np.asarray(got["embedding"], dtype=np.float64)
        if wanted.ndim != 1 or not wanted.size or wanted.shape != vector.shape:
            return f"the expected embedding is not a list of {vector.size} numbers"
        difference = float(np.abs(wanted - vector).max())
        if not difference <= tolerance:
            return f"the embedding differs by {difference:.3g}, allowed is {tolerance:g}"
        return None


def shorten_embedding(vector: NDArray[np.float32], dimensions: int | None) -> NDArray[np.float32]:
    """Return the leading numbers of an embedding, normalised again.

    Args:
        vector: f32 [D], of length 1.
        dimensions: How many to keep; None keeps all.
    """
    if dimensions is None or dimensions >= len(vector):
        return vector
    kept = vector[:dimensions]
    return kept / max(float(np.linalg.norm(kept)), 1e-12)
