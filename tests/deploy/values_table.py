"""Writes the table of values.yaml into the chart's README: `python -m tests.deploy.values_table`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "helm/kotae"
_BEGIN, _END = "<!-- values -->\n", "<!-- /values -->"


@dataclass(frozen=True)
class Value:
    """One entry of values.yaml; `comment` is None where none stands above it."""

    path: str
    default: Any
    comment: str | None


def read_values() -> list[Value]:
    """Read values.yaml: every key that has a line of its own, but for those that only hold others."""
    document = yaml.safe_load((CHART / "values.yaml").read_text())
    values, parents, comment = [], [""], None
    for line in (CHART / "values.yaml").read_text().splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        text = line.strip()
        if text.startswith("# "):
            comment = text[2:]
        elif key := re.match(r"(\w+):( |$)", text):
            parents = [*parents[: depth + 1], key[1]]
            path = ".".join(parents[1:])
            if key[2]:
                default = document
                for name in parents[1:]:
                    default = default[name]
                values.append(Value(path, default, comment))
            comment = None
    return values


def table() -> str:
    """Build the table."""
    rows = [
        f"| `{value.path}` | `{json.dumps(value.default)}` | {value.comment} |\n" for value in read_values()
    ]
    return "| value | default | what it does |\n|---|---|---|\n" + "".join(rows)


def table_in_readme() -> str:
    """Cut the table out of the README."""
    return (CHART / "README.md").read_text().split(_BEGIN)[1].split(_END)[0]


def main() -> None:
    """Write the table into the README."""
    path = CHART / "README.md"
    before, rest = path.read_text().split(_BEGIN)
    path.write_text(before + _BEGIN + table() + _END + rest.split(_END)[1])


if __name__ == "__main__":
    main()
