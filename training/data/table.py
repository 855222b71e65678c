"""Read tables: a CSV file with a header, or a file of JSON lines."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from training.errors import DataRejected

Row = Mapping[str, object]


def read_rows(path: Path, columns: tuple[str, str], group: str | None) -> list[tuple[str, str, str]]:
    """Return two columns and the group of each row; without a group column, each row is its own group.

    Raises:
        DataRejected: The file is missing or not readable, lacks a column, or a value is missing; the text
            names the file and the number of the row.
    """
    wanted = [*columns, *([group] if group else [])]
    rows = []
    for number, row in enumerate(_rows(path), start=1):
        values = _values(row, wanted, f"{path}, row {number}")
        rows.append((values[0], values[1], values[2] if group else str(number)))
    if not rows:
        raise DataRejected(f"{path} is empty")
    return rows


def read_columns(path: Path) -> list[str]:
    """Return the column names of a file's first row; none if it has no rows.

    Raises:
        DataRejected: The file is missing or not a readable table.
    """
    return list(next(_rows(path), {}))


def _rows(path: Path) -> Iterator[Row]:
    readers: Mapping[str, Callable[[Path], Iterator[Row]]] = {".csv": _csv_rows, ".jsonl": _json_rows}
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


def _values(row: Row, wanted: Sequence[str], where: str) -> list[str]:
    values = [row.get(name) for name in wanted]
    for name, value in zip(wanted, values, strict=True):
        if name not in row:
            there = ", ".join(str(column) for column in row)
            raise DataRejected(f"{where}: there is no column {name}; there is {there or 'none'}")
        if not isinstance(value, str | int) or not str(value).strip():
            raise DataRejected(f"{where}: there is no text under {name}")
    return [str(value) for value in values]


def _csv_rows(path: Path) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file)


def _json_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            row = json.loads(line)
            yield row if isinstance(row, dict) else {}
