"""Options, progress bar, and the table, JSON file and picture that all benchmarks share."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.machine import REPOSITORY, Cores, cores, facts
from benchmarks.pairs import Estimate

_PREFIX = "python -m benchmarks "


@dataclass(frozen=True, slots=True)
class Run:
    """Options of a benchmark.

    Attributes:
        name: Of the benchmark and its files.
        rounds: Number of pairs.
        seconds: Duration of one measurement.
        quick: Only check that everything works, with tiny networks in short time.
        output: Folder of the results.
    """

    name: str
    rounds: int
    seconds: float
    quick: bool
    output: Path
    cores: Cores

    @contextmanager
    def progress(self, steps: int) -> Iterator[Callable[[], None]]:
        """Show a progress bar; the yielded function advances it by a step."""
        with Progress(transient=True) as progress:
            bar = progress.add_task(self.name, total=steps)
            yield lambda: progress.advance(bar)


def parse(
    module: str,
    description: str | None,
    *,
    rounds: int,
    seconds: float,
    add: Callable[[argparse.ArgumentParser], object] = lambda _: None,
) -> tuple[Run, argparse.Namespace]:
    """Read a benchmark's command line.

    Args:
        module: Name of the benchmark.
        description: Its docstring.
        rounds: By default.
        seconds: By default.
        add: Adds options of its own.
    """
    parser = argparse.ArgumentParser(
        prog=_PREFIX + module, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=rounds, help="pairs (default %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=seconds, help="of one measurement (default %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="only check that everything works")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmarks" / "results")
    add(parser)
    options = parser.parse_args()
    quick = options.quick
    run = Run(
        name=module,
        rounds=1 if quick else options.rounds,
        seconds=0.3 if quick else options.seconds,
        quick=quick,
        output=options.output,
        cores=cores(quick=quick),
    )
    return run, options


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    Attributes:
        goal: Its goal, or None.
        at_least: Whether larger is better.
    """

    what: str
    estimate: Estimate
    goal: float | None = None
    at_least: bool = True

    @property
    def verdict(self) -> str:
        """`yes` if the whole interval meets the goal, `median only`, or `no`; empty without a goal."""
        if self.goal is None:
            return ""
        worse, median = (
            (self.estimate.low, self.estimate.median)
            if self.at_least
            else (-self.estimate.high, -self.estimate.median)
        )
        goal = self.goal if self.at_least else -self.goal
        return "yes" if worse >= goal else "median only" if median >= goal else "no"


@dataclass(slots=True)
class Report:
    """The result of a benchmark.

    Attributes:
        title: One line, for table and picture.
        axis: Label of the axis of the picture.
        notes: Printed below the table and kept in the file.
        details: All other measurements, for the file.
    """

    run: Run
    title: str
    axis: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    details: dict[str, object] = field(default_factory=dict)

    def add(self, what: str, estimate: Estimate, goal: float | None = None, *, at_least: bool = True) -> None:
        """Add a figure."""
        self.rows.append(Row(what, estimate, goal, at_least))

    def finish(self, draw: Callable[[Path], None] | None = None, table: Table | None = None) -> None:
        """Print the table, write `NAME.json` and `NAME.png`.

        Args:
            draw: Draws the picture instead of the default one.
            table: Printed instead of the default one.
        """
        console = Console(width=None if sys.stdout.isatty() else 120)
        console.print(table or self._table())
        for note in self.notes:
            console.print(note, markup=False, highlight=False)
        if self.run.quick:
            console.print("a quick run: these figures mean nothing", style="yellow")
        self.run.output.mkdir(parents=True, exist_ok=True)
        path = self.run.output / f"{self.run.name}.json"
        path.write_text(json.dumps(self._as_json(), indent=1) + "\n")
        (draw or self._draw)(path.with_suffix(".png"))

    def _table(self) -> Table:
        confidence = min((row.estimate.confidence for row in self.rows), default=0.0)
        interval_of = f"interval ({confidence:.0%})" if confidence else ""
        table = Table("", "median", interval_of, "goal", "met", title=self.title)
        for row in self.rows:
            sign = "≥" if row.at_least else "≤"
            goal = "" if row.goal is None else f"{sign} {row.goal:.3g}"
            found = row.estimate
            interval = f"{found.low:.3g} … {found.high:.3g}" if len(found.values) > 1 else ""
            table.add_row(row.what, f"{found.median:.3g}", interval, goal, row.verdict)
        return table

    def _as_json(self) -> Mapping[str, object]:
        return {
            "benchmark": _PREFIX + self.run.name,
            "title": self.title,
            "quick": self.run.quick,
            "rounds": self.run.rounds,
            "seconds": self.run.seconds,
            "machine": facts(),
            "rows": [
                {
                    "what": row.what,
                    "goal": row.goal,
                    "at_least": row.at_least,
                    "met": row.verdict,
                    **row.estimate.as_json(),
                }
                for row in self.rows
            ],
            "notes": self.notes,
            "details": self.details,
        }

    def _draw(self, path: Path) -> None:
        """Draw every figure with its interval, single values and goal."""
        from matplotlib.figure import Figure  # noqa: PLC0415 # slow to load

        figure = Figure(figsize=(9, 1.4 + 0.42 * len(self.rows)), layout="constrained")
        axes = figure.subplots()
        for place, row in enumerate(reversed(self.rows)):
            found = row.estimate
            axes.plot(found.values, [place] * len(found.values), "o", color="0.75", markersize=4)
            axes.plot([found.low, found.high], [place, place], color="tab:blue", linewidth=2)
            axes.plot([found.median], [place], "o", color="tab:blue")
            if row.goal is not None:
                axes.plot([row.goal] * 2, [place - 0.35, place + 0.35], color="tab:red", linewidth=2)
        axes.set_yticks(range(len(self.rows)), [row.what for row in reversed(self.rows)])
        axes.set_ylim(-0.7, len(self.rows) - 0.3)
        axes.set_xlim(left=0)
        legend = "point: median, line: its interval, grey: every pair, red: goal"
        axes.set_xlabel(f"{self.axis}\n{legend}")
        axes.set_title(self.title)
        axes.grid(axis="x", alpha=0.3)
        figure.savefig(path, dpi=110)
