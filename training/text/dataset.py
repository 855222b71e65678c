"""Tables of texts: a CSV file with a header, or a file of JSON lines."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.errors import DataRejected
from training.recipes.text_recipes import TextPairsData, TextTableData

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LabelledTexts:
    """Texts with labels.

    Attributes:
        texts: N texts.
        labels: i64 [N], indices into `classes`; -1 for a text that is none of them.
        groups: N names of what belongs together.
        description: What the data is, for provenance and card.
    """

    texts: tuple[str, ...]
    labels: NDArray[np.int64]
    groups: tuple[str, ...]
    classes: tuple[str, ...]
    description: str


@dataclass(frozen=True, slots=True)
class TextPairs:
    """N short texts and the N long ones that they belong to, with their groups."""

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    groups: tuple[str, ...]
    description: str


def read_labelled(data: TextTableData) -> LabelledTexts:
    """Read labelled texts.

    Raises:
        DataRejected: The file is missing or cannot be read, lacks a column, or has one label only.
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
        DataRejected: The file is missing or cannot be read, or lacks a column.
    """
    rows = read_rows(data.path, (data.query, data.document), data.group)
    queries, documents, groups = zip(*rows, strict=True)
    description = f"{data.path.name} of {len(rows)} pairs of {len(set(groups))} groups"
    return TextPairs(queries, documents, groups, description)


def read_rows(path: Path, columns: tuple[str, str], group: str | None) -> list[tuple[str, str, str]]:
    """Read two columns and the group of each row; without a group every row is its own.

    Raises:
        DataRejected: The text names the file and, for a bad row, its number.
    """
    wanted = [*columns, *([group] if group else [])]
    rows = []
    for number, row in enumerate(_rows(path), start=1):
        values = _values(row, wanted, f"{path}, row {number}")
        rows.append((values[0], values[1], values[2] if group else str(number)))
    if not rows:
        raise DataRejected(f"{path} is empty")
    return rows


def columns_of(path: Path) -> list[str]:
    """List the columns that a file's first row has; none if it has no rows.

    Raises:
        DataRejected: There is no such file, or it is no table that can be read.
    """
    return list(next(_rows(path), {}))


def _rows(path: Path) -> Iterator[Mapping[str, object]]:
    readers: Mapping[str, Callable[[Path], Iterator[Mapping[str, object]]]]
    readers = {".csv": _csv_rows, ".jsonl": _json_rows}
    if path.suffix not in readers:
        raise DataRejected(f"{path} is neither .csv nor .jsonl")
    if not path.is_file():
        raise DataRejected(f"there is no file {path}")
    try:
        yield from readers[path.suffix](path)
    except UnicodeDecodeError as error:
        raise DataRejected(f"{path} is not UTF-8: {error}") from error
    except (csv.Error, json.JSONDecodeError) as error:
        raise DataRejected(f"{path} cannot be read: {error}") from error


def _values(row: Mapping[str, object], wanted: Sequence[str], where: str) -> list[str]:
    values = [row.get(name) for name in wanted]
    for name, value in zip(wanted, values, strict=True):
        if name not in row:
            there = ", ".join(str(column) for column in row)
            raise DataRejected(f"{where}: there is no column {name}; there is {there or 'none'}")
        if not isinstance(value, str | int) or not str(value).strip():
            raise DataRejected(f"{where}: there is no text under {name}")
    return [str(value) for value in values]


def _csv_rows(path: Path) -> Iterator[Mapping[str, object]]:
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file)


def _json_rows(path: Path) -> Iterator[Mapping[str, object]]:
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            row = json.loads(line)
            yield row if isinstance(row, dict) else {}
