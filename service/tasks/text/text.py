"""Texts -> token ids; probabilities -> labels, and pooled vectors -> embeddings.

Sits before and after the queue of text tasks. Tokenising happens here, in the library's Rust code;
embedding tables, pooling, normalising and softmax are nodes of the graph. Nothing is cut silently: a
long text is an error, or cut and marked with `truncate=true`.

Letters in shapes: `T` tokens of one text, `D` size of an embedding.
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

import filetype
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer
from typing_extensions import TypedDict

from service.errors import InvalidInput, ModelRejected, TooLarge, UnsupportedMedia, ValidationFailed
from service.repository.manifest import TextInput, VersionFacts
from service.tasks.classification import Classification, ClassificationParameters, Classifier
from service.tasks.task import Decoded, Limits, Outputs, Raw, Result, StatedSeconds, largest_differences

_QUICK_CHARACTERS = 256
_SNIFFED_BYTES = 262  # what `filetype` looks at


class TextParameters(BaseModel):
    """What every text task can be asked.

    Attributes:
        truncate: Cut a text that is too long, and say so, instead of refusing it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    truncate: Annotated[bool, Field(description="Cut long texts, and say so, instead of refusing.")] = False


class TextClassificationParameters(ClassificationParameters, TextParameters):
    """Parameters of text classification."""


class EmbeddingParameters(TextParameters):
    """Parameters of embeddings, as OpenAI names them.

    Attributes:
        dimensions: Keep this many leading numbers and normalise again; for models trained for it.
        encoding_format: Numbers, or base64 of little-endian float32.
    """

    dimensions: Annotated[int, Field(ge=1, description="Keep this many leading numbers.")] | None = None
    encoding_format: Literal["float", "base64"] = "float"


class Embedding(TypedDict):
    """The result of one text: a vector of length 1."""

    embedding: list[float]
    truncated: NotRequired[bool]


class TextReader:
    """Turns texts into token ids as one version wants them.

    Raises:
        ModelRejected: The tokenizer does not load, or its token 0 is not padding.
    """

    def __init__(self, folder: Path, facts: VersionFacts) -> None:
        if not isinstance(facts.input, TextInput):
            raise ModelRejected(f"version.yaml says input kind {facts.input.kind}, a text task needs text")
        path = folder / facts.input.tokenizer
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ModelRejected(f"{facts.input.tokenizer} does not load: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._max_tokens = facts.input.max_tokens
        # A text of more characters than this has too many tokens whatever they are.
        longest = max((len(token.encode()) for token in self._tokenizer.get_vocab()), default=1)
        self._max_characters = self._max_tokens * max(longest, 16)

    def read(self, raw: Raw, *, truncate: bool, declared_type: str = "") -> Decoded:
        """Tokenise one text.

        Args:
            raw: A text, or the bytes of one in UTF-8.
            truncate: Whether a long text is cut instead of refused.
            declared_type: Media type that the client named; only used to word the refusal.

        Returns:
            `input_ids` and `attention_mask` i64 [T]; the cost is T. The context says whether it was cut.

        Raises:
            InvalidInput: Not UTF-8, or empty, or nothing but white space.
            UnsupportedMedia: The bytes are a picture, a sound or the like.
            TooLarge: More tokens than the model takes.
        """
        text = raw if isinstance(raw, str) else _decode(raw, declared_type)
        if not text.strip():
            raise InvalidInput("the text is empty")
        cut = len(text) > self._max_characters
        ids = [] if cut and not truncate else self._encode(text[: self._max_characters])
        if cut or len(ids) > self._max_tokens:
            if not truncate:
                count = f"over {self._max_tokens}" if cut else str(len(ids))
                raise TooLarge(
                    f"the text has {count} tokens; the limit is {self._max_tokens}, "
                    "and truncate=true cuts it there"
                )
            cut = True
            ids = (
                [*ids[: self._max_tokens - 1], ids[-1]]
                if self._ends_special(ids)
                else ids[: self._max_tokens]
            )
        array = np.array(ids, dtype=np.int64)
        inputs = {"input_ids": array, "attention_mask": np.ones_like(array)}
        return Decoded((inputs,), (len(ids),), {"truncated": cut})

    def _encode(self, text: str) -> list[int]:
        try:
            encoding = self._tokenizer.encode(text)
        except Exception as error:  # the library raises bare Exception and its own TypeErrors
            raise InvalidInput(f"the text cannot be tokenised: {error}") from error
        if not encoding.ids:
            raise InvalidInput("the text has no token that the model knows")
        return list(encoding.ids)

    def _ends_special(self, ids: Sequence[int]) -> bool:
        special = self._tokenizer.get_added_tokens_decoder().get(ids[-1])
        return special is not None and bool(special.special)


def _decode(body: bytes, declared_type: str) -> str:
    try:
        return body.decode("utf-8")  # before any sniffing: a text may begin with BM or SQLi too
    except UnicodeDecodeError as error:
        kind = filetype.guess_mime(body[:_SNIFFED_BYTES]) or declared_type
        if kind and not kind.startswith("text/"):
            raise UnsupportedMedia(f"{kind} is not text; send UTF-8 text") from error
        raise InvalidInput(f"the text is not UTF-8: {error.reason} at byte {error.start}") from error


def read_json_text(value: object) -> str:
    """Take one text out of JSON.

    Raises:
        InvalidInput: It is something else, such as token ids.
    """
    if not isinstance(value, str):
        raise InvalidInput("must be a text; token ids are not taken, since every model has its own")
    return value


class TextClassification(Classifier):
    """`text-classification` for one version: texts in, labels with probabilities out."""

    name: ClassVar[str] = "text-classification"
    parameters: ClassVar[type[BaseModel]] = TextClassificationParameters
    media_type: ClassVar[str] = "text/plain"
    inputs: ClassVar[Mapping[str, str]] = {"input_ids": "int64", "attention_mask": "int64"}
    outputs: ClassVar[Mapping[str, str]] = {"probabilities": "float32"}
    result: ClassVar[type] = Classification
    stated_seconds: ClassVar[StatedSeconds | None] = None

    def __init__(self, folder: Path, facts: VersionFacts) -> None:
        super().__init__(folder, facts)
        self._reader = TextReader(folder, facts)
        self.quick_size = _QUICK_CHARACTERS

    @staticmethod
    def from_json(value: object) -> Raw:
        """Take one text."""
        return read_json_text(value)

    def decode(self, raw: Raw, limits: Limits, parameters: BaseModel, declared_type: str = "") -> Decoded:
        """Tokenise one text; see `TextReader.read`."""
        truncate = cast(TextParameters, parameters).truncate
        return self._reader.read(raw, truncate=truncate, declared_type=declared_type)


class TextEmbedding:
    """`text-embedding` for one version: texts in, vectors of length 1 out."""

    name: ClassVar[str] = "text-embedding"
    parameters: ClassVar[type[BaseModel]] = EmbeddingParameters
    media_type: ClassVar[str] = "text/plain"
    inputs: ClassVar[Mapping[str, str]] = {"input_ids": "int64", "attention_mask": "int64"}
    outputs: ClassVar[Mapping[str, str]] = {"embedding": "float32"}
    result: ClassVar[type] = Embedding
    stated_seconds: ClassVar[StatedSeconds | None] = None

    def __init__(self, folder: Path, facts: VersionFacts) -> None:
        self.labels: tuple[str, ...] = ()
        self._reader = TextReader(folder, facts)
        self.quick_size = _QUICK_CHARACTERS
        self._dimensions = 0  # learnt from the graph's own outputs, at the golden check

    @staticmethod
    def from_json(value: object) -> Raw:
        """Take one text."""
        return read_json_text(value)

    def decode(self, raw: Raw, limits: Limits, parameters: BaseModel, declared_type: str = "") -> Decoded:
        """Tokenise one text; see `TextReader.read`.

        Raises:
            ValidationFailed: More dimensions are asked for than the model has.
        """
        wanted = cast(EmbeddingParameters, parameters)
        if wanted.dimensions is not None and self._dimensions and wanted.dimensions > self._dimensions:
            raise ValidationFailed(
                f"{wanted.dimensions} dimensions were asked for, the model has {self._dimensions}",
                param="dimensions",
            )
        return self._reader.read(raw, truncate=wanted.truncate, declared_type=declared_type)

    def answer(self, parts: Sequence[Outputs], decoded: Decoded, parameters: BaseModel) -> Result:
        """Give `embedding` f32 [D], shortened if that was asked for."""
        vector = shorten(parts[0]["embedding"], cast(EmbeddingParameters, parameters).dimensions)
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
            return f"the expected embedding is no list of {vector.size} numbers"
        difference = float(np.abs(wanted - vector).max())
        if not difference <= tolerance:
            return f"the embedding differs by {difference:.3g}, allowed is {tolerance:g}"
        return None


def shorten(vector: NDArray[np.float32], dimensions: int | None) -> NDArray[np.float32]:
    """Keep the leading numbers of an embedding and normalise again.

    Args:
        vector: f32 [D], of length 1.
        dimensions: How many to keep; None keeps all.
    """
    if dimensions is None or dimensions >= len(vector):
        return vector
    kept = vector[:dimensions]
    return kept / max(float(np.linalg.norm(kept)), 1e-12)
