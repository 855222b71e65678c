"""Figures as Markdown: what a terminal shows and a card keeps, word for word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write a table; the first column to the left, the others to the right."""
    marks = ["---", *("---:" for _ in header[1:])]
    lines = [header, marks, *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
