"""Figures of a detector as Markdown tables: for the terminal and, word for word, for the card."""

from __future__ import annotations

from training.detection.metrics import THRESHOLD, DetectionFigures, Slice


def figure_tables(figures: DetectionFigures) -> str:
    """Write the figures."""
    summary = (
        f"| {figures.pictures} held-out pictures, {figures.things} things | |\n|---|---:|\n"
        f"| AP@[.5:.95] | {figures.ap:.4f} |\n"
        f"| AP50 | {figures.ap50:.4f} |\n"
        f"| AP75 | {figures.ap75:.4f} |\n"
        f"| right of what is answered at threshold {THRESHOLD:g} | {figures.precision:.2%} |\n"
        f"| found rightly at threshold {THRESHOLD:g} | {figures.recall:.2%} |"
    )
    slices = {f"COCO's {name}": row for name, row in figures.sizes.items()}
    slices |= {f"height {name}": row for name, row in figures.heights.items()}
    return "\n\n".join(
        [
            summary,
            _table("slice", slices | figures.traits),
            _table("label", figures.classes),
        ]
    )


def _table(title: str, rows: dict[str, Slice]) -> str:
    lines = [f"| {title} | things | AP@[.5:.95] | AP50 |", "|---|---:|---:|---:|"]
    lines += [
        f"| {name} | {row.things} | {_number(row.ap)} | {_number(row.ap50)} |" for name, row in rows.items()
    ]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
