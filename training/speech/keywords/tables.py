"""Figures of a classifier of short sounds as Markdown tables: for the terminal and the card."""

from __future__ import annotations

from collections.abc import Mapping

from training.core.tables import markdown_table
from training.speech.keywords.metrics import OTHERS, Counted, KeywordFigures, Trusted

_TITLES = {"condition": "condition", "engine": "synthesiser", "voice": "voice"}


def keyword_tables(figures: KeywordFigures) -> str:
    """Write the figures: of everything and by condition, by whatever else is notable, by label."""
    parts = [_slices("held out", {**figures.of_kind("condition"), "everything": figures.whole})]
    parts.append(f"Macro F1: {figures.macro_f1:.4f}.")
    kinds = {trait.partition(": ")[0] for trait in figures.slices} - {"condition"}
    ordered = [*(kind for kind in _TITLES if kind in kinds), *sorted(kinds - _TITLES.keys())]
    parts += [_slices(_TITLES.get(kind, kind), figures.of_kind(kind)) for kind in ordered]
    if figures.trusted:
        parts.append(_trusted(figures.trusted))
    parts.append(_labels(figures))
    if figures.mistakes:
        told = ", ".join(f"{right} as {given} ({count})" for right, given, count in figures.mistakes)
        parts.append(f"The commonest mistakes, what it was and what was answered: {told}.")
    return "\n\n".join(parts)


def _slices(title: str, rows: Mapping[str, Counted]) -> str:
    cells = [(name, one.files, f"{one.accuracy:.2%}") for name, one in rows.items()]
    return markdown_table((title, "files", "right"), cells)


def _trusted(rows: Mapping[float, Trusted]) -> str:
    others = " and ".join(f"`{name}`" for name in OTHERS)
    told = f"Where {others} count as no answer, and so does what scores less:"
    header = ("least score", "answered", "right, of those answered", "others answered wrongly")
    cells = [
        (f"{least:g}", f"{one.answered:.2%}", f"{one.right:.2%}", f"{one.mistaken:.2%}")
        for least, one in rows.items()
    ]
    return f"{told}\n\n{markdown_table(header, cells)}"


def _labels(figures: KeywordFigures) -> str:
    rows = [
        (name, one.files, f"{one.precision:.2%}", f"{one.recall:.2%}", f"{one.f1:.4f}")
        for name, one in figures.labels.items()
    ]
    return markdown_table(("label", "files", "precision", "recall", "F1"), rows)
