"""One queue with three deadlines and all text lengths, at twice the capacity, against the FastAPI baseline.

`python -m benchmarks deadlines [--factor 2]`: texts of 8 to 256 tokens. A third of the requests each has a
deadline of 5, 20 and 80 times the latency of a single client. The baseline runs with the
`--limit-concurrency` of uvicorn that gives it the largest goodput under this load. Both get the same rate:
the factor times the larger of their two peaks.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.load import Reading, Stream, closed_loop, run_load, single_item_ms
from benchmarks.pairs import Estimate, interleaved, ratios
from benchmarks.report import Report, Run, parse
from benchmarks.servers import fastapi_baseline, kotae
from benchmarks.workloads import Workload, reference_workload

DEADLINES = (5, 20, 80)  # times the latency of a single client
LIMITS = (2, 4, 8, 16, 32, 64)

_Requests = Callable[..., list[bytes]]


def main() -> None:
    """Measure and report."""
    run, options = parse("deadlines", __doc__, rounds=6, seconds=5, add=_add_options)
    workload = reference_workload("minilm", small=run.quick)
    cores = (run.cores.service,)
    with kotae([workload], cores) as ours:
        ours_peak = closed_loop(ours, workload.requests(), 32, run).rate
        alone_ms = single_item_ms(ours, workload.requests(), run)
        with fastapi_baseline([workload], cores) as plain:
            theirs_peak = closed_loop(plain, workload.baseline_requests(), 4, run).rate
        offered = options.factor * max(ours_peak, theirs_peak)
        limit, tried = _tune(workload, offered, alone_ms, run)
        with (
            fastapi_baseline([workload], cores, limit_concurrency=limit) as theirs,
            run.progress(run.rounds * 2) as tick,
        ):
            pairs = interleaved(
                run.rounds,
                partial(run_load, ours, streams(workload.requests, offered, alone_ms), run),
                partial(run_load, theirs, streams(workload.baseline_requests, offered, alone_ms), run),
                tick=tick,
            )
    report = Report(run, "mixed deadlines and costs, overloaded", "goodput over the FastAPI baseline's")
    least = 1 / run.seconds  # the baseline counts as one answer in time if it has none
    totals = [(a.goodput, max(b.goodput, least)) for a, b in pairs]
    report.add("all deadlines", ratios(totals), 1.3)
    for number, times in enumerate(DEADLINES):
        rows = [(a.summaries[number].goodput, max(b.summaries[number].goodput, least)) for a, b in pairs]
        report.add(f"deadline {times * alone_ms:.3g} ms", ratios(rows))
    for name, peak, column in (("Kotae", ours_peak, 0), ("the FastAPI baseline", theirs_peak, 1)):
        share = Estimate.of(row[column].goodput / peak for row in pairs)
        report.add(f"{name}: goodput over its own peak", share)
    report.notes.append(f"offered {offered:.4g}/s; the baseline's best limit is {limit}")
    report.details |= {"goodput by limit": tried, "peaks": [ours_peak, theirs_peak]}
    report.details["statuses"] = [[_statuses(reading) for reading in pair] for pair in pairs]
    report.finish()


def streams(requests: _Requests, rate: float, alone_ms: float) -> list[Stream]:
    """Return the load: a third of the rate for each deadline."""
    made = []
    for times in DEADLINES:
        deadline_ms = times * alone_ms
        asked = requests(X_Timeout_Ms=f"{deadline_ms:.3f}")
        made.append(Stream(asked, rate=rate / len(DEADLINES), deadline_ms=deadline_ms))
    return made


def _tune(workload: Workload, offered: float, alone_ms: float, run: Run) -> tuple[int, dict[int, float]]:
    """Find the limit at which the FastAPI baseline has the largest goodput under this load.

    Returns:
        The limit, and the goodput at each limit.
    """
    tried: dict[int, float] = {}
    load = streams(workload.baseline_requests, offered, alone_ms)
    limits: Sequence[int] = LIMITS[2:3] if run.quick else LIMITS
    for limit in limits:
        with fastapi_baseline([workload], (run.cores.service,), limit_concurrency=limit) as server:
            run_load(server, load, run, min(1.0, run.seconds))
            tried[limit] = run_load(server, load, run).goodput
    return max(tried, key=lambda limit: tried[limit]), tried


def _statuses(reading: Reading) -> list[dict[str, int]]:
    return [dict(summary.statuses) for summary in reading.summaries]


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--factor", type=float, default=2.0)
