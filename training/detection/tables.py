"""Metrics of the detector as Markdown tables, for the terminal and the model card."""

from __future__ import annotations

from collections.abc import Mapping

from training.detection.metrics import THRESHOLD, DetectionMetrics, Slice


def metric_tables(metrics: DetectionMetrics) -> str:
    """Return all metrics."""
    summary = (
        f"| {metrics.pictures} held-out images, {metrics.things} objects | value |\n|---|---:|\n"
        f"| AP@[.5:.95] | {metrics.ap:.4f} |\n"
        f"| AP50 | {metrics.ap50:.4f} |\n"
        f"| AP75 | {metrics.ap75:.4f} |\n"
        f"| precision at threshold {THRESHOLD:g} | {metrics.precision:.2%} |\n"
        f"| recall at threshold {THRESHOLD:g} | {metrics.recall:.2%} |"
    )
    slices = {f"COCO size: {name}": row for name, row in metrics.sizes.items()}
    slices |= {f"height {name}": row for name, row in metrics.heights.items()}
    return "\n\n".join([summary, _table("slice", slices | metrics.traits), _table("label", metrics.classes)])


def _table(title: str, rows: Mapping[str, Slice]) -> str:
    lines = [f"| {title} | objects | AP@[.5:.95] | AP50 |", "|---|---:|---:|---:|"]
    lines += [
        f"| {name} | {row.things} | {_number(row.ap)} | {_number(row.ap50)} |" for name, row in rows.items()
    ]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
