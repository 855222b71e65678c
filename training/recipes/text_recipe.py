"""Recipes for texts: classification and embedding."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from service.repository.manifest import TextInput
from training.recipes.recipe import Recipe, Strict


class TextTableData(Strict):
    """Labelled texts: a CSV file with a header, or a file of JSON lines.

    Attributes:
        path: The file, `.csv` or `.jsonl`; relative to the current folder.
        text: Column or key of the text.
        label: Column or key of the label.
        group: Column of the groups that a split keeps together, such as authors; None splits by text.
        unknown: Label of texts that have none of the labels, for which the network learns to be uncertain;
            None has no such label.
    """

    kind: Literal["text-table"] = "text-table"
    path: Path
    text: str = "text"
    label: str = "label"
    group: str | None = None
    unknown: str | None = None


class TextPairsData(Strict):
    """Pairs of a query and the document that it should find; otherwise as `TextTableData`."""

    kind: Literal["text-pairs"] = "text-pairs"
    path: Path
    query: str = "query"
    document: str = "document"
    group: str | None = None


class Windows(Strict):
    """Windows of texts for training, so that short texts are classified well too.

    Attributes:
        shortest: Characters of the shortest window.
        longest: Characters of the longest window; lengths between are log-uniform.
        whole: Share of batches with texts from their beginning, up to `longest_whole` characters.
        measured: Characters of the windows on which the threshold for `unknown` is chosen.
        right: Share of answered windows that must be right, for which the threshold is chosen.
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
        buckets: Rows of the hash table of each n-gram length, from two bytes on.
        width: Width of the embeddings.
        channels: Channels of the convolutions.
        kernel: Kernel size of the convolutions, in bytes.
        dropout: Share of pooled features dropped in training.
    """

    buckets: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1)] = (4096, 8192, 8192)
    width: Annotated[int, Field(ge=1)] = 32
    channels: Annotated[int, Field(ge=1)] = 64
    kernel: Literal[1, 3, 5, 7, 9] = 5
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1


class TextClassificationRecipe(Recipe):
    """A recipe for text classification.

    Attributes:
        windows: Windows for training; None trains on whole texts, and every text gets a label.
        beside: Further texts, in a file with the data's columns, that are only answered and shown: a file in
            the recipes' folder, or any path.
    """

    data: TextTableData
    input: TextInput
    windows: Windows | None = None
    network: ByteNetworkSize = ByteNetworkSize()
    beside: Path | None = None

    @property
    def beside_path(self) -> Path | None:
        """The path of `beside`."""
        if self.beside is None:
            return None
        shipped = Path(__file__).parent / self.beside
        return shipped if shipped.is_file() else self.beside

    def data_at(self, path: Path) -> dict[str, object]:
        """Return data of another file with the same columns."""
        return {**self.data.model_dump(mode="json"), "path": str(path)}


class TextEncoderSize(Strict):
    """Size of the text encoder.

    Attributes:
        vocabulary: Tokens of the tokenizer that is trained on the training part.
        width: Width of the Transformer encoder.
        heads: Attention heads.
        layers: Transformer layers.
        dimensions: Length of the vector.
        prefixes: Shorter prefixes of the vector that are trained too.
        dropout: Share of tokens dropped in training.
    """

    vocabulary: Annotated[int, Field(ge=300, le=65536)] = 4096
    width: Annotated[int, Field(ge=1)] = 64
    heads: Annotated[int, Field(ge=1)] = 4
    layers: Annotated[int, Field(ge=1)] = 1
    dimensions: Annotated[int, Field(ge=2)] = 1024
    prefixes: tuple[Annotated[int, Field(ge=1)], ...] = (64, 256)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.15


class Contrast(Strict):
    """Settings of contrastive training.

    Attributes:
        query_tokens: Most tokens of a query in training.
        document_tokens: Most tokens of a document in training.
        siblings: Share of batches with texts of the same group together, which are the hardest to
            distinguish.
        alike: Share of batches with documents of similar vectors together, from the second epoch on.
        pieces: Share of pairs whose query is a sentence of the document, and the document the rest.
        prefix_weight: Weight of each prefix's loss; the whole vector's is 1.
        temperature: Initial temperature of the softmax over the batch; it is trained.
    """

    query_tokens: Annotated[int, Field(ge=4)] = 40
    document_tokens: Annotated[int, Field(ge=8)] = 224
    siblings: Annotated[float, Field(ge=0, le=1)] = 0.3
    alike: Annotated[float, Field(ge=0, le=1)] = 0.4
    pieces: Annotated[float, Field(ge=0, le=1)] = 0.25
    prefix_weight: Annotated[float, Field(ge=0)] = 0.2
    temperature: Annotated[float, Field(gt=0)] = 0.05


class TextEmbeddingRecipe(Recipe):
    """A recipe for text embedding.

    Attributes:
        candidates: Number of test documents among which each test query must find its own.
    """

    data: TextPairsData
    input: TextInput
    network: TextEncoderSize = TextEncoderSize()
    contrast: Contrast = Contrast()
    candidates: Annotated[int, Field(ge=2)] = 5000

    @model_validator(mode="after")
    def _starts_from_scratch(self) -> Self:
        if self.start is not None:
            raise ValueError(
                "training for text-embedding starts from scratch only: its tokenizer is trained on the data"
            )
        return self

    def data_at(self, path: Path) -> dict[str, object]:
        """Return data of another file with the same columns."""
        return {**self.data.model_dump(mode="json"), "path": str(path)}
