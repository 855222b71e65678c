"""Labelled texts and pairs of texts, read from tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from training.data.split import Parts
from training.data.table import read_rows
from training.errors import DataRejected
from training.recipes.text_recipe import TextPairsData, TextTableData


@dataclass(frozen=True, slots=True)
class LabelledTexts:
    """Texts with labels.

    Attributes:
        texts: N texts.
        labels: i64 [N], indices into `classes`; -1 for a text that has none of the labels.
        groups: N names of groups that a split keeps together.
        description: What the data are, for provenance and card.
    """

    texts: tuple[str, ...]
    labels: NDArray[np.int64]
    groups: tuple[str, ...]
    classes: tuple[str, ...]
    description: str


@dataclass(frozen=True, slots=True)
class TextPairs:
    """N queries and the N documents that they belong to, with their groups."""

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    groups: tuple[str, ...]
    description: str


Table = TypeVar("Table", LabelledTexts, TextPairs)


@dataclass(frozen=True)
class TextData(Generic[Table]):
    """A table of texts and its parts.

    Attributes:
        table: The texts.
        parts: Indices of each part.
        split: How the test part was chosen.
    """

    table: Table
    parts: Parts
    split: str

    @property
    def description(self) -> str:
        """What the data are."""
        return self.table.description


def read_labelled(data: TextTableData) -> LabelledTexts:
    """Read labelled texts.

    Raises:
        DataRejected: The file is missing or not readable, lacks a column, or has one label only.
    """
    rows = read_rows(data.path, (data.text, data.label), data.group)
    names = sorted({label for _, label, _ in rows} - {data.unknown})
    if len(names) < 2:
        raise DataRejected(f"{data.path} has {len(names)} labels: at least two are needed")
    if odd := [name for name in names if name != name.strip() or "\n" in name]:
        raise DataRejected(f"{data.path}: {odd[0]!r} cannot be a label; white space around it is no part")
    place = {name: number for number, name in enumerate(names)}
    labels = np.array([place.get(label, -1) for _, label, _ in rows], dtype=np.int64)
    counts = ", ".join(f"{name} {int((labels == i).sum())}" for name, i in place.items())
    others = int((labels < 0).sum())
    more = f", and {others} that are none of them" if others else ""
    return LabelledTexts(
        tuple(text for text, _, _ in rows),
        labels,
        tuple(group for _, _, group in rows),
        tuple(names),
        f"{data.path.name} of {len(rows)} texts: {counts}{more}",
    )


def read_pairs(data: TextPairsData) -> TextPairs:
    """Read pairs of texts.

    Raises:
        DataRejected: The file is missing or not readable, or lacks a column.
    """
    rows = read_rows(data.path, (data.query, data.document), data.group)
    queries, documents, groups = zip(*rows, strict=True)
    description = f"{data.path.name} of {len(rows)} pairs of {len(set(groups))} groups"
    return TextPairs(queries, documents, groups, description)
