"""Metrics of the keyword classifier as Markdown tables, for the terminal and the model card."""

from __future__ import annotations

from collections.abc import Mapping

from training.core.slices import kinds_of_slices
from training.core.tables import markdown_table
from training.speech.keywords.metrics import OTHERS, Counted, KeywordMetrics, ThresholdMetrics

_TITLES = {"condition": "condition", "engine": "synthesiser", "voice": "voice"}


def keyword_tables(metrics: KeywordMetrics) -> str:
    """Return all metrics: total and by condition, by the other kinds of slices, by label."""
    parts = [_slices("held out", {**metrics.of_kind("condition"), "everything": metrics.whole})]
    parts.append(f"Macro F1: {metrics.macro_f1:.4f}.")
    kinds = kinds_of_slices(metrics.slices, list(_TITLES))
    parts += [_slices(_TITLES.get(kind, kind), metrics.of_kind(kind)) for kind in kinds]
    if metrics.trusted:
        parts.append(_trusted(metrics.trusted))
    parts.append(_labels(metrics))
    if metrics.mistakes:
        listed = ", ".join(f"{right} → {given} ({count})" for right, given, count in metrics.mistakes)
        parts.append(f"Most frequent errors (true label → answer): {listed}.")
    return "\n\n".join(parts)


def _slices(title: str, rows: Mapping[str, Counted]) -> str:
    cells = [(name, one.files, f"{one.accuracy:.2%}") for name, one in rows.items()]
    return markdown_table((title, "files", "accuracy"), cells)


def _trusted(rows: Mapping[float, ThresholdMetrics]) -> str:
    others = " or ".join(f"`{name}`" for name in OTHERS)
    caption = f"A result is an answer if its label is not {others} and its score is not below the minimum:"
    header = ("minimum score", "words answered", "accuracy of the answers", "other sounds answered")
    cells = [
        (f"{least:g}", f"{one.answered:.2%}", f"{one.right:.2%}", f"{one.mistaken:.2%}")
        for least, one in rows.items()
    ]
    return f"{caption}\n\n{markdown_table(header, cells)}"


def _labels(metrics: KeywordMetrics) -> str:
    rows = [
        (name, one.files, f"{one.precision:.2%}", f"{one.recall:.2%}", f"{one.f1:.4f}")
        for name, one in metrics.labels.items()
    ]
    return markdown_table(("label", "files", "precision", "recall", "F1"), rows)
