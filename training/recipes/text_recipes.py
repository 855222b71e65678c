"""Recipes that learn from texts: labels for texts, and vectors for finding texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from service.repository.manifest import TextInput
from training.recipes.recipe import Recipe, Strict


class TextTableData(Strict):
    """Labelled texts: a CSV file with a header, or a file of JSON lines.

    Attributes:
        path: The file, `.csv` or `.jsonl`; relative to where the command runs.
        text: Column or key of the text.
        label: Of the label.
        group: Of what a split keeps together, such as an author; None splits by text.
        unknown: Label of texts that are none of the labels. The network learns to be unsure about
            them; None has no such label.
    """

    kind: Literal["text-table"] = "text-table"
    path: Path
    text: str = "text"
    label: str = "label"
    group: str | None = None
    unknown: str | None = None


class TextPairsData(Strict):
    """Pairs of a short text and the long one that it should find; otherwise as `TextTableData`."""

    kind: Literal["text-pairs"] = "text-pairs"
    path: Path
    query: str = "query"
    document: str = "document"
    group: str | None = None


class Windows(Strict):
    """Pieces of texts to learn from, so that short texts are understood too.

    Attributes:
        shortest: Characters of the shortest window.
        longest: Of the longest one; lengths between are equally likely on a logarithmic scale.
        whole: Share of batches that have texts from their beginning, up to `longest_whole` characters.
        measured: Characters of the windows that the threshold for `unknown` is chosen on.
        right: Share of answered windows that must be right; the threshold is chosen for it.
    """

    shortest: Annotated[int, Field(ge=1)] = 8
    longest: Annotated[int, Field(ge=1)] = 400
    whole: Annotated[float, Field(ge=0, le=1)] = 0.15
    longest_whole: Annotated[int, Field(ge=1)] = 700
    measured: Annotated[int, Field(ge=1)] = 20
    right: Annotated[float, Field(gt=0, lt=1)] = 0.98


class ByteNetworkSize(Strict):
    """Size of the network over bytes.

    Attributes:
        buckets: Rows of the table of each length of byte n-grams, from two bytes on.
        width: Numbers of an embedding.
        channels: Of the convolutions.
        kernel: Bytes that a convolution sees.
        dropout: Share of pooled features dropped while training.
    """

    buckets: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1)] = (4096, 8192, 8192)
    width: Annotated[int, Field(ge=1)] = 32
    channels: Annotated[int, Field(ge=1)] = 64
    kernel: Literal[1, 3, 5, 7, 9] = 5
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1


class TextLabelsRecipe(Recipe):
    """A recipe for classifying texts.

    Attributes:
        windows: None learns from whole texts only, and answers always with a label.
        beside: Further texts, in a file with the data's columns, that are only answered and shown: one of
            the recipes' folder, or any path.
    """

    data: TextTableData
    input: TextInput
    windows: Windows | None = None
    network: ByteNetworkSize = ByteNetworkSize()
    beside: Path | None = None

    @property
    def beside_path(self) -> Path | None:
        """Where `beside` is."""
        if self.beside is None:
            return None
        shipped = Path(__file__).parent / self.beside
        return shipped if shipped.is_file() else self.beside

    def data_at(self, path: Path) -> dict[str, object]:
        """Learn from another file with the same columns."""
        return {**self.data.model_dump(mode="json"), "path": str(path)}


class EncoderSize(Strict):
    """Size of the text encoder.

    Attributes:
        vocabulary: Tokens of the tokenizer that is trained on the training part.
        width: Numbers of a token in the Transformer encoder.
        heads: Attention heads.
        layers: Transformer layers.
        dimensions: Numbers of the answer.
        prefixes: Shorter prefixes of the answer that shall work too.
        dropout: Share of tokens that are not seen while training.
    """

    vocabulary: Annotated[int, Field(ge=300, le=65536)] = 4096
    width: Annotated[int, Field(ge=1)] = 64
    heads: Annotated[int, Field(ge=1)] = 4
    layers: Annotated[int, Field(ge=1)] = 1
    dimensions: Annotated[int, Field(ge=2)] = 1024
    prefixes: tuple[Annotated[int, Field(ge=1)], ...] = (64, 256)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.15


class Contrast(Strict):
    """How pairs are learnt.

    Attributes:
        query_tokens: Most tokens of a query while learning.
        document_tokens: Of a document.
        siblings: Share of batches that have texts of the same group side by side, which are the hardest
            to tell apart.
        alike: Share of batches that have documents side by side that the network finds alike, from the
            second epoch on.
        pieces: Share of pairs whose query is a sentence of the document, and the document the rest.
        prefix_weight: Weight of each prefix's loss, where the whole answer's is 1.
        temperature: Of the softmax over the batch at the start; it is learnt.
    """

    query_tokens: Annotated[int, Field(ge=4)] = 40
    document_tokens: Annotated[int, Field(ge=8)] = 224
    siblings: Annotated[float, Field(ge=0, le=1)] = 0.3
    alike: Annotated[float, Field(ge=0, le=1)] = 0.4
    pieces: Annotated[float, Field(ge=0, le=1)] = 0.25
    prefix_weight: Annotated[float, Field(ge=0)] = 0.2
    temperature: Annotated[float, Field(gt=0)] = 0.05


class TextEmbeddingRecipe(Recipe):
    """A recipe for finding texts by texts.

    Attributes:
        candidates: Held-out documents among which each held-out query must find its own.
    """

    data: TextPairsData
    input: TextInput
    network: EncoderSize = EncoderSize()
    contrast: Contrast = Contrast()
    candidates: Annotated[int, Field(ge=2)] = 5000

    @model_validator(mode="after")
    def _starts_from_scratch(self) -> Self:
        if self.start is not None:
            raise ValueError(
                "training for text-embedding starts from scratch only: its tokens are made anew from the data"
            )
        return self

    def data_at(self, path: Path) -> dict[str, object]:
        """Learn from another file with the same columns."""
        return {**self.data.model_dump(mode="json"), "path": str(path)}
