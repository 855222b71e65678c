"""Draws a Grafana dashboard as a picture, with the data of a run."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from benchmarks.observability.prometheus_api import RATE_INTERVAL, Prometheus, Series
from benchmarks.observability.queries import substitute

_COLUMNS = 24
_WIDTH_INCHES = 20.0
_UNIT_INCHES = 0.46  # height of one grid unit
_LINES_IN_LEGEND = 8
_ROWS_IN_TABLE = 10
_LETTERS_IN_LEGEND = 11  # of a grid column
_INK, _FAINT, _GRID = "#1f2430", "#667085", "#e4e7ec"
_COLOURS = (
    "#2f6fdf", "#e07b39", "#2a9d6f", "#b23a6f", "#7a5cc9", "#c2a21b", "#3aa6b9", "#8a5a44",
    "#94a3b8", "#d1495b", "#5b8c2a", "#30507d",
)  # fmt: skip
_THRESHOLDS = {"green": "#2a9d6f", "orange": "#d98a1f", "red": "#d1344b"}


def draw(dashboard: dict[str, Any], server: Prometheus, path: Path) -> None:
    """Draw a dashboard and save it as a PNG file."""
    panels = dashboard["panels"]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    total_inches = height * _UNIT_INCHES + 0.8
    figure = Figure(figsize=(_WIDTH_INCHES, total_inches), facecolor="white")
    figure.text(
        0.012, 1 - 0.45 / total_inches, dashboard["title"], size=18, weight="bold", color=_INK, va="center"
    )
    figure.text(
        0.988,
        1 - 0.45 / total_inches,
        dashboard["description"],
        size=11,
        color=_FAINT,
        ha="right",
        va="center",
    )
    for panel in panels:
        _Place(figure, panel["gridPos"], total_inches).draw(panel, server)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


class _Place:
    """Position and size of a panel, in inches from the top left."""

    def __init__(self, figure: Figure, grid: dict[str, int], total_inches: float) -> None:
        self._figure = figure
        self._total = total_inches
        self._left = (_WIDTH_INCHES - 0.3) * grid["x"] / _COLUMNS + 0.15
        self._width = (_WIDTH_INCHES - 0.3) * grid["w"] / _COLUMNS
        self._top = 0.8 + grid["y"] * _UNIT_INCHES
        self._height = grid["h"] * _UNIT_INCHES

    def draw(self, panel: dict[str, Any], server: Prometheus) -> None:
        if panel["type"] == "row":
            title = f"▸ {panel['title']} (folded)" if panel["collapsed"] else panel["title"]
            self._text(0.1, self._height * 0.62, title, size=13, weight="bold", color=_INK)
            return
        self._frame()
        self._text(0.15, 0.24, panel["title"], size=11, weight="bold", color=_INK)
        plain = panel["type"] in ("stat", "table")
        axes = self._axes(0.15 if plain else 0.75, 0.48, 0.2, 0.15 if plain else 0.75)
        _DRAWERS[panel["type"]](axes, panel, server)

    def _frame(self) -> None:
        corner = (self._left + 0.05) / _WIDTH_INCHES, 1 - (self._top + self._height - 0.05) / self._total
        size = (self._width - 0.1) / _WIDTH_INCHES, (self._height - 0.1) / self._total
        self._figure.add_artist(Rectangle(corner, *size, facecolor="none", edgecolor=_GRID))

    def _text(self, x: float, y: float, text: str, **style: Any) -> None:
        self._figure.text(
            (self._left + x) / _WIDTH_INCHES, 1 - (self._top + y) / self._total, text, va="center", **style
        )

    def _axes(self, left: float, top: float, right: float, bottom: float) -> Axes:
        box = (
            (self._left + left) / _WIDTH_INCHES,
            1 - (self._top + self._height - bottom) / self._total,
            (self._width - left - right) / _WIDTH_INCHES,
            (self._height - top - bottom) / self._total,
        )
        axes = self._figure.add_axes(box)
        for spine in axes.spines.values():
            spine.set_color(_GRID)
        axes.tick_params(colors=_FAINT, labelsize=8, length=0)
        return axes


def _draw_lines(axes: Axes, panel: dict[str, Any], server: Prometheus) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    custom = defaults["custom"]
    lines = [
        (_legend(target["legendFormat"], series.labels), series)
        for target in panel["targets"]
        for series in server.over_time(substitute(target["expr"], RATE_INTERVAL))
    ]
    lines.sort(key=lambda line: line[0])
    if len(lines) > _LINES_IN_LEGEND:  # only the visible ones
        lines.sort(key=lambda line: -np.nanmax(line[1].values, initial=0.0))
    if "stacking" in custom:
        _draw_stack(axes, lines, server)
    else:
        for colour, (name, series) in zip(_repeat(_COLOURS), lines, strict=False):
            minutes = (np.array(series.seconds) - server.begin) / 60
            axes.plot(minutes, series.values, color=colour, label=name, linewidth=1.4)
            if custom["fillOpacity"]:
                axes.fill_between(minutes, series.values, color=colour, alpha=0.1, linewidth=0)
    low, high = defaults.get("min", 0.0), axes.get_ylim()[1]
    if not any(value > low for _, series in lines for value in series.values):
        high = low + 1.0
    for step in defaults["thresholds"]["steps"][1:]:
        if step["value"] <= high * 1.6:
            axes.axhline(step["value"], color=_THRESHOLDS[step["color"]], linestyle="--", linewidth=1)
            high = max(high, step["value"] * 1.1)
    high = defaults.get("max", high)
    axes.set_ylim(low - 0.02 * (high - low), high + 0.04 * (high - low))  # keeps a line at 0 visible
    _finish_time_axis(axes, server)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: in_unit(value, defaults["unit"])))
    _draw_legend(axes, panel["gridPos"]["w"])


def _draw_stack(axes: Axes, lines: list[tuple[str, Series]], server: Prometheus) -> None:
    moments = np.arange(server.begin, server.end + server.step_seconds / 2, server.step_seconds)
    floor = np.zeros(len(moments))
    for colour, (name, series) in zip(_repeat(_COLOURS), lines, strict=False):
        at = np.rint((np.array(series.seconds) - server.begin) / server.step_seconds).astype(int)
        values = np.zeros(len(moments))
        values[at] = np.nan_to_num(series.values)
        axes.fill_between(
            (moments - server.begin) / 60,
            floor,
            floor + values,
            color=colour,
            alpha=0.75,
            label=name,
            linewidth=0,
        )
        floor = floor + values
    axes.set_ylim(0, max(float(floor.max()) * 1.05, 1e-9))


def _draw_stat(axes: Axes, panel: dict[str, Any], server: Prometheus) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    axes.axis("off")
    shown = [
        (_legend(target["legendFormat"], series.labels), series.values[-1])
        for target in panel["targets"]
        for series in server.at_end(substitute(target["expr"], RATE_INTERVAL))
    ]
    for i, (name, value) in enumerate(shown):
        colour = next(
            _THRESHOLDS[step["color"]]
            for step in reversed(defaults["thresholds"]["steps"])
            if step["value"] is None or value >= step["value"]
        )
        x = (i + 0.5) / len(shown)
        text = in_unit(value, defaults["unit"], defaults.get("decimals"))
        axes.text(x, 0.6, text, size=24, weight="bold", color=colour, ha="center", va="center")
        axes.text(x, 0.12, name, size=10, color=_FAINT, ha="center", va="center")


def _draw_heatmap(axes: Axes, panel: dict[str, Any], server: Prometheus) -> None:
    series = server.over_time(substitute(panel["targets"][0]["expr"], RATE_INTERVAL))
    series.sort(key=lambda line: float(line.labels["le"]))
    moments = np.arange(server.begin, server.end + server.step_seconds / 2, server.step_seconds)
    cumulative = np.zeros((len(series), len(moments)))
    for row, line in enumerate(series):
        at = np.rint((np.array(line.seconds) - server.begin) / server.step_seconds).astype(int)
        cumulative[row, at] = np.nan_to_num(line.values)
    rates = np.diff(cumulative, axis=0, prepend=0).clip(min=0)
    used = int(np.flatnonzero(rates.any(axis=1)).max(initial=0)) + 1
    edges = np.append(moments, moments[-1] + server.step_seconds)
    mesh = axes.pcolormesh(
        (edges - server.begin) / 60, np.arange(used + 1), rates[:used] ** 0.5, cmap="Blues", rasterized=True
    )
    mesh.set_clim(0, None)
    axes.set_yticks(np.arange(used) + 0.5, [f"≤ {float(line.labels['le']):g}" for line in series[:used]])
    _finish_time_axis(axes, server)


def _draw_table(axes: Axes, panel: dict[str, Any], server: Prometheus) -> None:
    axes.axis("off")
    options = panel["transformations"][0]["options"]
    hidden = {name for name, hide in options["excludeByName"].items() if hide}
    found = server.at_end(substitute(panel["targets"][0]["expr"], RATE_INTERVAL))
    rows = [{**series.labels, "Value": f"{series.values[-1]:g}"} for series in found]
    columns = sorted({name for row in rows for name in row} - hidden, key=_column_order)
    titles = [options["renameByName"].get(name, name) for name in columns]
    cells = sorted([row.get(name, "") for name in columns] for row in rows)
    if not cells:
        return
    if len(cells) > _ROWS_IN_TABLE:  # where Grafana would scroll
        more = [f"… {len(cells) - _ROWS_IN_TABLE + 1} more", *("" for _ in columns[1:])]
        cells = [*cells[: _ROWS_IN_TABLE - 1], more]
    table = axes.table(
        cells, colLabels=titles, loc="upper left", cellLoc="left", colLoc="left", edges="horizontal"
    )
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    table.auto_set_column_width(list(range(len(columns))))
    table.scale(1.0, 1.4)
    for (row, _), cell in table.get_celld().items():
        cell.set_edgecolor(_GRID)
        cell.get_text().set_color(_FAINT if row == 0 else _INK)


_DRAWERS: dict[str, Callable[[Axes, dict[str, Any], Prometheus], None]] = {
    "timeseries": _draw_lines,
    "stat": _draw_stat,
    "heatmap": _draw_heatmap,
    "table": _draw_table,
}


def in_unit(value: float, unit: str, decimals: int | None = None) -> str:
    """Write a value in a Grafana unit."""
    if unit == "percentunit":
        return f"{value * 100:.{decimals}f} %" if decimals is not None else f"{value * 100:.3g} %"
    if unit == "bytes":
        return f"{value / 2**20:.0f} MiB" if abs(value) >= 2**20 or not value else f"{value / 2**10:.1f} KiB"
    if unit == "s":
        for factor, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if abs(value) >= factor:
                return f"{value / factor:.3g} {name}"
        return "0 s"
    number = f"{value:.{decimals}f}" if decimals is not None else f"{value:.4g}"
    return number + (" /s" if unit == "reqps" else "")


def _finish_time_axis(axes: Axes, server: Prometheus) -> None:
    axes.set_xlim(0, (server.end - server.begin) / 60)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    begun = server.begin

    def clock(minutes: float, _: object) -> str:
        return datetime.fromtimestamp(begun + minutes * 60, UTC).strftime("%H:%M:%S")

    axes.xaxis.set_major_formatter(FuncFormatter(clock))
    axes.grid(color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)


def _draw_legend(axes: Axes, width: int) -> None:
    handles, names = axes.get_legend_handles_labels()
    longest = max(map(len, names[:_LINES_IN_LEGEND]), default=0) + 4  # with its handle
    columns = min(_LINES_IN_LEGEND // 2, max(1, width * _LETTERS_IN_LEGEND // longest))
    if len(names) > 2 * columns:
        names = [*names[: 2 * columns - 1], f"… {len(names) - 2 * columns + 1} more"]
    axes.legend(
        handles[: len(names)],
        names,
        loc="upper left",
        bbox_to_anchor=(-0.08, -0.1),
        ncols=columns,
        fontsize=8,
        frameon=False,
        labelcolor=_FAINT,
        handlelength=1.2,
        columnspacing=1.2,
        borderaxespad=0.2,
    )


def _legend(template: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match.group(1), ""), template).strip() or "none"


def _column_order(name: str) -> tuple[int, str]:
    first = ("model", "version", "reason", "task", "precision", "device", "instance", "pod")
    return (first.index(name) if name in first else len(first), name)


def _repeat(colours: tuple[str, ...]) -> list[str]:
    return list(colours) * 10
