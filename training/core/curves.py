"""Plot the values that a training logged over its steps."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

CURVES_FILE = "curves.png"
Curve = tuple[list[int], list[float]]
Panels = Sequence[tuple[str, Mapping[str, str]]]  # title of each panel; logged names and their legends
LEARNING_RATE = ("learning rate", {"lr-AdamW/pg1": ""})


def read_curves(run: Path) -> dict[str, Curve]:
    """Return steps and values by logged name. A resumed run has several files."""
    curves: dict[str, dict[int, float]] = {}
    files = sorted((run / "csv").glob("version_*/metrics.csv"), key=lambda path: path.stat().st_mtime)
    for file in files:
        with file.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                for name, value in row.items():
                    if value and name not in ("step", "epoch"):
                        curves.setdefault(name, {})[int(row["step"])] = float(value)
    return {
        name: (sorted(points), [points[step] for step in sorted(points)]) for name, points in curves.items()
    }


def copy_curves(run: Path, model: Path) -> str:
    """Copy a run folder's plot into a model's folder; return the Markdown that shows it.

    Without a plot in the run folder, the model's folder keeps its own one, if there is any.
    """
    if (run / CURVES_FILE).is_file():
        shutil.copyfile(run / CURVES_FILE, model / CURVES_FILE)
    return f"![Curves of the training]({CURVES_FILE})" if (model / CURVES_FILE).is_file() else ""


def draw_curves(run: Path, panels: Panels) -> None:
    """Plot a run folder's curves into it."""
    curves = read_curves(run)
    figure = Figure(figsize=(12, 3.2), layout="constrained")
    axes = figure.subplots(1, len(panels))
    for axis, (title, names) in zip(axes, panels, strict=True):
        for name, label in names.items():
            steps, values = curves.get(name, ([], []))
            axis.plot(steps, values, label=label, marker="." if len(steps) < 40 else None)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("steps")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        if len(names) > 1:
            axis.legend()
    figure.savefig(run / CURVES_FILE, dpi=100)
