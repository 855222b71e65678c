"""Fairness: goodput of two models with different deadlines in one overloaded process.

`python -m benchmarks fairness`: `resnet18` and `minilm`, each with a deadline of 10 times the latency of a
single client. First both are offered 1.5 times their own peak; the fair share is half of the peak for each.
Then one is offered 3 times its peak and the other a quarter of its own; the fair share is all of that
quarter, and the remaining time for the overloaded one. The peaks are measured in each round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from benchmarks.load import Reading, Stream, closed_loop, run_load, single_item_ms
from benchmarks.overload import DEADLINE_ITEMS, PEAK_CLIENTS
from benchmarks.pairs import Estimate, interleaved
from benchmarks.report import Report, parse
from benchmarks.servers import kotae
from benchmarks.workloads import reference_workload

_GOAL = 0.85


@dataclass(frozen=True, slots=True)
class Scenario:
    """Offered rate and fair share of both models, as shares of each one's own peak."""

    name: str
    offered: tuple[float, float]
    fair: tuple[float, float]


SCENARIOS = (
    Scenario("both overloaded", (1.5, 1.5), (0.5, 0.5)),
    Scenario("only the first", (3.0, 0.25), (0.75, 0.25)),
    Scenario("only the second", (0.25, 3.0), (0.25, 0.75)),
)


def main() -> None:
    """Measure and report."""
    run, _ = parse("fairness", __doc__, rounds=6, seconds=4)
    names = ("tiny", "small") if run.quick else ("resnet18", "minilm")
    models = [reference_workload(name, small=run.quick) for name in names]
    with (
        kotae(models, [run.cores.service]) as server,
        run.progress(run.rounds * (2 + len(SCENARIOS))) as tick,
    ):
        for model in models:
            closed_loop(server, model.requests(), 4, run, min(1.0, run.seconds))
        deadlines = [DEADLINE_ITEMS * single_item_ms(server, model.requests(), run) for model in models]
        hurried = [
            model.requests(X_Timeout_Ms=f"{deadline:.3f}")
            for model, deadline in zip(models, deadlines, strict=True)
        ]
        peaks = [closed_loop(server, model.requests(), PEAK_CLIENTS, run).rate for model in models]

        def peak(number: int) -> Reading:
            reading = closed_loop(server, models[number].requests(), PEAK_CLIENTS, run)
            peaks[number] = reading.rate
            return reading

        def play(scene: Scenario) -> Reading:
            load = [
                Stream(hurried[i], rate=scene.offered[i] * peaks[i], deadline_ms=deadlines[i]) for i in (0, 1)
            ]
            return run_load(server, load, run)

        measures: list[Callable[[], Reading]] = [lambda: peak(0), lambda: peak(1)]
        measures += [lambda scene=scene: play(scene) for scene in SCENARIOS]  # type: ignore[misc]
        rounds = interleaved(run.rounds, *measures, tick=tick)
    report = Report(run, "two models in one process", "goodput over the fair share")
    for place, scene in enumerate(SCENARIOS, start=2):
        for number, name in enumerate(names):
            shares = _shares(rounds, place, number, scene)
            what = f"{scene.name}: {name} (offered {scene.offered[number]:g} of its peak)"
            report.add(what, Estimate.of(shares), _GOAL)
    report.notes.append(f"deadlines {deadlines[0]:.3g} and {deadlines[1]:.3g} ms")
    report.details["rounds"] = [
        [[asdict(summary) for summary in reading.summaries] for reading in readings] for readings in rounds
    ]
    report.finish()


def _shares(rounds: Sequence[Sequence[Reading]], place: int, number: int, scene: Scenario) -> list[float]:
    """Return goodput over the fair share for each round; the fair share is at most what arrived."""
    found = []
    for readings in rounds:
        summary = readings[place].summaries[number]
        fair = scene.fair[number] * readings[number].rate
        found.append(summary.goodput / min(fair, max(1, summary.requests) / summary.seconds))
    return found
