"""The table of results. Every figure is on disk as soon as it is measured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.machine import facts
from benchmarks.pairs import Estimate
from benchmarks.report import Row

_HEAD = ("| | median | interval | goal | met | |", "|---|---|---|---|---|---|")
_PICTURES = {"items/s": "rates", "ms": "latency", "times": "ratios"}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table.

    Attributes:
        part: The part of the benchmark.
        row: What was measured; None if it was skipped.
        note: What limits the figure, or why it was skipped.
    """

    part: str
    what: str
    unit: str = ""
    row: Row | None = None
    note: str = ""

    def cells(self) -> list[str]:
        """Return the cells of a line in Markdown."""
        if self.row is None:
            return [self.what, "", "", "", "", self.note]
        found, goal = self.row.estimate, self.row.goal
        interval = f"{found.low:.4g} … {found.high:.4g}" if len(found.values) > 1 else ""
        wanted = "" if goal is None else f"{'≥' if self.row.at_least else '≤'} {goal:g}"
        return [self.what, f"{found.median:.4g} {self.unit}", interval, wanted, self.row.verdict, self.note]


@dataclass(slots=True)
class Results:
    """All lines so far, kept in `gpu.md` and `gpu.json` of a folder.

    Attributes:
        setting: How the benchmark was run, for the head of the files.
        quiet: Whether to print nothing.
    """

    folder: Path
    setting: Mapping[str, object]
    quiet: bool = False
    lines: list[Line] = field(default_factory=list)
    _machine: Mapping[str, str] = field(default_factory=facts)

    def add(
        self,
        part: str,
        what: str,
        values: Iterable[float],
        unit: str,
        *,
        goal: float | None = None,
        at_least: bool = True,
        note: str = "",
    ) -> None:
        """Add a figure.

        Args:
            part: The part of the benchmark.
            what: What was measured.
            values: One per round.
            unit: `items/s`, `ms`, `times` or another.
            goal: The wanted median.
            at_least: Whether more is better.
            note: What limits the figure, or other facts.
        """
        row = Row(what, Estimate.of(values), goal, at_least)
        self._keep(Line(part, what, unit, row, note))

    def skip(self, part: str, what: str, reason: str) -> None:
        """Add a line that could not be measured."""
        self._keep(Line(part, what, note=f"skipped: {reason}"))

    def draw(self) -> list[Path]:
        """Draw one picture for each unit that occurs.

        Returns:
            The files; none if matplotlib is not installed.
        """
        try:
            from benchmarks.gpu.drawing import draw  # noqa: PLC0415 # needs matplotlib, which serving does not
        except ImportError:
            return []
        paths = []
        for unit, name in _PICTURES.items():
            lines = [line for line in self.lines if line.unit == unit]
            if lines:
                paths.append(self.folder / f"gpu-{name}.png")
                draw(lines, unit, paths[-1])
        return paths

    def _keep(self, line: Line) -> None:
        self.lines.append(line)
        if not self.quiet:
            print(f"{line.part}: " + "  ".join(cell for cell in line.cells() if cell), flush=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(self.folder / "gpu.md", self._markdown())
        _write(self.folder / "gpu.json", json.dumps(self._as_json(), indent=1) + "\n")

    def _markdown(self) -> str:
        text = ["# One GPU kept busy", ""]
        text += [f"- {name}: {value}" for name, value in {**self._machine, **self.setting}.items()]
        for part in dict.fromkeys(line.part for line in self.lines):
            text += ["", f"## {part}", "", *_HEAD]
            text += [f"| {' | '.join(line.cells())} |" for line in self.lines if line.part == part]
        return "\n".join(text) + "\n"

    def _as_json(self) -> Mapping[str, object]:
        return {
            "benchmark": "python -m benchmarks.gpu",
            "machine": self._machine,
            **self.setting,
            "rows": [
                {"part": line.part, "what": line.what, "unit": line.unit, "note": line.note, **_figures(line)}
                for line in self.lines
            ],
        }


def _figures(line: Line) -> dict[str, object]:
    if line.row is None:
        return {"skipped": True}
    goal = {"goal": line.row.goal, "at_least": line.row.at_least, "met": line.row.verdict}
    return {**goal, **line.row.estimate.as_json()}


def _write(path: Path, text: str) -> None:
    """Replace a file at once, so that no reader sees half of it."""
    draft = path.with_name(f".{path.name}.partial")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
