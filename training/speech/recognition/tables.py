"""Metrics of a speech model as Markdown tables, for the terminal and the model card."""

from __future__ import annotations

from collections.abc import Mapping

from training.core.slices import kinds_of_slices
from training.core.tables import markdown_table
from training.speech.recognition.metrics import Slice, SpeechMetrics

_TITLES = {
    "condition": "condition",
    "engine": "synthesiser",
    "voice": "voice",
    "voice and condition": "voice, condition",
    "kind": "kind of sentence",
    "sentence": "sentence",
}


def speech_tables(metrics: SpeechMetrics) -> str:
    """Return all metrics: total and by condition, then by the other kinds of slices."""
    parts = [_table("held out", {**metrics.of_kind("condition"), "everything": metrics.whole}, errors=True)]
    kinds = kinds_of_slices(metrics.slices, list(_TITLES))
    parts += [_table(_TITLES.get(kind, kind), metrics.of_kind(kind)) for kind in kinds]
    if metrics.mistakes:
        listed = ", ".join(f"{said} → {written} ({count})" for said, written, count in metrics.mistakes)
        parts.append(f"Most frequent errors (spoken → recognised): {listed}.")
    return "\n\n".join(parts)


def _table(title: str, rows: Mapping[str, Slice], *, errors: bool = False) -> str:
    header = [title, "files", "words", "word error rate", "letter by letter", "files without error"]
    header += ["substitutions", "deletions", "insertions"] if errors else []
    return markdown_table(header, [(name, *_cells(one, errors=errors)) for name, one in rows.items()])


def _cells(one: Slice, *, errors: bool) -> list[object]:
    found = one.searched
    cells: list[object] = [found.files, found.words, f"{found.rate:.2%}", f"{one.letters.rate:.2%}"]
    cells.append(f"{found.right_files / max(1, found.files):.2%}")
    return cells + ([found.substituted, found.missing, found.added] if errors else [])
