"""Metrics of the image classifier as Markdown tables."""

from __future__ import annotations

from training.core.tables import markdown_table
from training.images.metrics import ImageMetrics, Metrics


def card_tables(metrics: ImageMetrics) -> str:
    """Return the metrics on the files of the data, for the model card."""
    plain = metrics.plain
    rows = [
        (row.label, row.items, f"{row.precision:.4f}", f"{row.recall:.4f}", f"{row.f1:.4f}")
        for row in plain.per_class
    ]
    table = markdown_table(("class", "pictures", "precision", "recall", "F1"), rows)
    return f"{_summary(plain, 'held-out pictures')}\n\n{table}"


def report_tables(metrics: ImageMetrics) -> str:
    """Return all metrics, for the terminal."""
    parts = [card_tables(metrics)]
    if metrics.redrawn:
        parts.append(_summary(metrics.redrawn, "redrawn held-out pictures"))
        rows = [(name, items, f"{accuracy:.2%}") for name, (accuracy, items) in metrics.slices.items()]
        parts.append(markdown_table(("redrawn pictures by look", "pictures", "accuracy"), rows))
    return "\n\n".join(parts)


def _summary(metrics: Metrics, name: str) -> str:
    return (
        f"{metrics.items} {name}: accuracy {metrics.accuracy:.2%}, macro F1 {metrics.macro_f1:.4f}, "
        f"calibration error {metrics.calibration_error:.4f}."
    )
