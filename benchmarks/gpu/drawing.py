"""One picture per unit: every figure with its interval, all readings, and its goal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from benchmarks.gpu.results import Line

_LEGEND = "bar: median; line: its interval; dots: every round; red: goal"


def draw(lines: Sequence[Line], unit: str, path: Path) -> None:
    """Draw figures of one unit as bars."""
    figure = Figure(figsize=(10, 1.6 + 0.34 * len(lines)), layout="constrained")
    axes = figure.subplots()
    for place, line in enumerate(reversed(lines)):
        row = line.row
        assert row is not None, "a line with a unit has a figure"
        found = row.estimate
        axes.barh(place, found.median, color="#9ecae1")
        axes.plot([found.low, found.high], [place, place], color="#08519c", linewidth=2)
        axes.plot(found.values, [place] * len(found.values), ".", color="0.35", markersize=4)
        axes.annotate(f" {found.median:.4g}", (found.median, place), va="center", fontsize=8)
        if row.goal is not None:
            axes.plot([row.goal] * 2, [place - 0.4, place + 0.4], color="tab:red", linewidth=2)
    axes.set_yticks(range(len(lines)), [f"{line.part}: {line.what}" for line in reversed(lines)], fontsize=8)
    axes.set_xlim(0, 1.12 * max(axes.get_xlim()[1], 1e-9))
    figure.suptitle(f"{unit}   ({_LEGEND})", fontsize=9)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)
