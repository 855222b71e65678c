"""Figures of a speech model as Markdown tables: for the terminal and, word for word, for the card."""

from __future__ import annotations

from collections.abc import Mapping

from training.core.tables import markdown_table
from training.speech.recognition.metrics import Slice, SpeechFigures

_TITLES = {
    "condition": "condition",
    "engine": "synthesiser",
    "voice": "voice",
    "voice and condition": "voice, condition",
    "kind": "kind of sentence",
    "sentence": "sentence",
}


def speech_tables(figures: SpeechFigures) -> str:
    """Write the figures: of everything and by condition, then by whatever else is notable about files."""
    parts = [_table("held out", {**figures.of_kind("condition"), "everything": figures.whole}, errors=True)]
    kinds = {trait.partition(": ")[0] for trait in figures.slices} - {"condition"}
    ordered = [*(kind for kind in _TITLES if kind in kinds), *sorted(kinds - _TITLES.keys())]
    parts += [_table(_TITLES.get(kind, kind), figures.of_kind(kind)) for kind in ordered]
    if figures.mistakes:
        told = ", ".join(f"{said} as {written} ({count})" for said, written, count in figures.mistakes)
        parts.append(f"The commonest mistakes, what was said and what was written: {told}.")
    return "\n\n".join(parts)


def _table(title: str, rows: Mapping[str, Slice], *, errors: bool = False) -> str:
    header = [title, "files", "words", "word error rate", "letter by letter", "files all right"]
    header += ["wrong", "missing", "added"] if errors else []
    return markdown_table(header, [(name, *_cells(one, errors=errors)) for name, one in rows.items()])


def _cells(one: Slice, *, errors: bool) -> list[object]:
    found = one.searched
    cells: list[object] = [found.files, found.words, f"{found.rate:.2%}", f"{one.letters.rate:.2%}"]
    cells.append(f"{found.right_files / max(1, found.files):.2%}")
    return cells + ([found.substituted, found.missing, found.added] if errors else [])
