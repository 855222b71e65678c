"""Overload: goodput and late answers when requests arrive at a multiple of the peak rate.

`python -m benchmarks overload [--models resnet18,minilm] [--factors 1.2,2,5]`: the peak is the rate of 32
closed-loop clients; arrivals are a Poisson process; the deadline is 10 times the latency of a single
client. "Late of admitted" is the share of answers after the deadline and of 504s among requests that were
not refused. The report also says how often a busy loop on the service's core was interrupted while nothing
else ran.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.load import Reading, Stream, closed_loop, run_load, single_item_ms
from benchmarks.machine import measure_jitter
from benchmarks.pairs import Estimate, interleaved
from benchmarks.report import Report, Run, parse
from benchmarks.servers import Server, kotae
from benchmarks.workloads import Workload, reference_workload

DEADLINE_ITEMS = 10  # times the latency of a single client
PEAK_CLIENTS = 32
_LATE_GOAL = 0.005


@dataclass(frozen=True, slots=True)
class Overload:
    """One round: the reading at the peak and at each factor."""

    peak: Reading
    offered: dict[float, Reading]


def main() -> None:
    """Measure and report."""
    run, options = parse("overload", __doc__, rounds=6, seconds=4, add=add_options)
    report = Report(run, "goodput under overload", "goodput over peak, and share of late answers")
    names = ["tiny"] if run.quick else options.models
    curves: dict[str, dict[float, Estimate]] = {}
    with run.progress(len(names) * run.rounds * (1 + len(options.factors))) as tick:
        for name in names:
            workload = reference_workload(name, small=run.quick)
            jitter = measure_jitter(run.cores.service, min(2.0, run.seconds))
            with kotae([workload], [run.cores.service]) as server:
                rounds, deadline_ms = overload_rounds(server, workload, run, options.factors, tick)
            curves[name] = _add_rows(report, name, rounds)
            report.notes.append(
                f"{name}: deadline {deadline_ms:.3g} ms; a busy loop on the core lost "
                f"{jitter.lost_share:.2%} of its time, in gaps of up to {jitter.longest_gap_ms:.3g} ms"
            )
            report.details[name] = {
                "deadline_ms": deadline_ms,
                "jitter": jitter.as_json(),
                "rounds": [describe(one) for one in rounds],
            }
    report.finish(lambda path: _draw(path, curves))


def overload_rounds(
    server: Server,
    workload: Workload,
    run: Run,
    factors: Sequence[float],
    tick: Callable[[], None] = lambda: None,
) -> tuple[list[Overload], float]:
    """Measure the peak and the overloads in turn; rates are multiples of the latest peak.

    Returns:
        The rounds, and the deadline in milliseconds.
    """
    plain = workload.requests()
    closed_loop(server, plain, 4, run, min(1.0, run.seconds))
    deadline_ms = DEADLINE_ITEMS * single_item_ms(server, plain, run)
    hurried = workload.requests(X_Timeout_Ms=f"{deadline_ms:.3f}")
    peaks = [closed_loop(server, plain, PEAK_CLIENTS, run).rate]

    def peak() -> Reading:
        reading = closed_loop(server, plain, PEAK_CLIENTS, run)
        peaks.append(reading.rate)
        return reading

    def offer(factor: float) -> Reading:
        stream = Stream(hurried, rate=factor * peaks[-1], deadline_ms=deadline_ms)
        return run_load(server, [stream], run)

    measures = [peak, *((lambda factor=factor: offer(factor)) for factor in factors)]
    found = interleaved(run.rounds, *measures, tick=tick)
    return [Overload(first, dict(zip(factors, rest, strict=True))) for first, *rest in found], deadline_ms


def late_share(reading: Reading) -> float:
    """Return the share of late answers among requests that were not refused."""
    summary = reading.only
    late = summary.late + summary.statuses.get("504", 0)
    return late / max(1, summary.ok + summary.statuses.get("504", 0))


def describe(one: Overload) -> dict[str, object]:
    """Return a round for a JSON file."""
    return {
        "peak": one.peak.rate,
        **{f"{factor:g}": asdict(reading.only) for factor, reading in one.offered.items()},
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for models and factors."""
    parser.add_argument("--models", type=lambda text: text.split(","), default=["resnet18", "minilm"])
    parser.add_argument(
        "--factors", type=lambda text: [float(part) for part in text.split(",")], default=[1.2, 2.0, 5.0]
    )


def _add_rows(report: Report, name: str, rounds: Sequence[Overload]) -> dict[float, Estimate]:
    curve = {}
    for factor in rounds[0].offered:
        curve[factor] = Estimate.of(one.offered[factor].goodput / one.peak.rate for one in rounds)
        report.add(f"{name} at {factor:g}x: goodput over peak", curve[factor], 0.9)
    for factor in rounds[0].offered:
        late = Estimate.of(late_share(one.offered[factor]) for one in rounds)
        report.add(f"{name} at {factor:g}x: late of admitted", late, _LATE_GOAL, at_least=False)
    return curve


def _draw(path: Path, curves: dict[str, dict[float, Estimate]]) -> None:
    from matplotlib.figure import Figure  # noqa: PLC0415 # slow to load

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        found = list(curve.values())
        below = [one.median - one.low for one in found]
        above = [one.high - one.median for one in found]
        axes.errorbar(
            list(curve), [one.median for one in found], yerr=[below, above], marker="o", capsize=3, label=name
        )
    axes.axhline(0.9, color="tab:red", linewidth=1, label="goal")
    axes.set_xlabel("offered load over peak")
    axes.set_ylabel("goodput over peak")
    axes.set_ylim(0, 1.1)
    axes.set_title(f"Answers in time under overload (deadline: {DEADLINE_ITEMS} x a client alone)")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
