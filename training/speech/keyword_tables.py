"""Figures of a classifier of short sounds as Markdown tables: for the terminal and the card."""

from __future__ import annotations

from collections.abc import Mapping

from training.speech.keyword_figures import Counted, KeywordFigures
from training.text.label_tables import table

_TITLES = {"condition": "condition", "engine": "synthesiser", "voice": "voice"}
_REJECTING = "unknown"


def keyword_tables(figures: KeywordFigures) -> str:
    """Write the figures: of everything and by condition, by whatever else is notable, by label."""
    parts = [_slices("held out", {**figures.of_kind("condition"), "everything": figures.whole})]
    parts.append(f"Macro F1: {figures.macro_f1:.4f}.")
    kinds = {trait.partition(": ")[0] for trait in figures.slices} - {"condition"}
    ordered = [*(kind for kind in _TITLES if kind in kinds), *sorted(kinds - _TITLES.keys())]
    parts += [_slices(_TITLES.get(kind, kind), figures.of_kind(kind)) for kind in ordered]
    if _REJECTING in figures.labels and figures.labels[_REJECTING].files:
        parts.append(_rejection(figures))
    parts.append(_labels(figures))
    if figures.mistakes:
        told = ", ".join(f"{right} as {given} ({count})" for right, given, count in figures.mistakes)
        parts.append(f"The commonest mistakes, what it was and what was answered: {told}.")
    return "\n\n".join(parts)


def _slices(title: str, rows: Mapping[str, Counted]) -> str:
    cells = [(name, one.files, f"{one.accuracy:.2%}") for name, one in rows.items()]
    return table((title, "files", "right"), cells)


def _rejection(figures: KeywordFigures) -> str:
    other = figures.labels[_REJECTING]
    return (
        f"Of the {other.files} files with other words, {1 - other.recall:.2%} were taken for something else; "
        f"of the answers `{_REJECTING}`, {1 - other.precision:.2%} were to files with another label."
    )


def _labels(figures: KeywordFigures) -> str:
    rows = [
        (name, one.files, f"{one.precision:.2%}", f"{one.recall:.2%}", f"{one.f1:.4f}")
        for name, one in figures.labels.items()
    ]
    return table(("label", "files", "precision", "recall", "F1"), rows)
