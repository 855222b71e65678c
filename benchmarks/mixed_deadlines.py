"""One queue of mixed deadlines and costs at twice what can be done: goodput over a textbook's best limit.

`python -m benchmarks.mixed_deadlines [--factor 2]`: texts of 8 to 256 tokens, a third each with a deadline
of 5, 20 and 80 times what a client alone waits for a median one. The rival is `B0` behind uvicorn's
`--limit-concurrency`, the limit tuned for this very load. Both are offered the same: so many times the
greater of their peaks.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.openloop import Stream
from benchmarks.pairs import Estimate, interleaved, ratios
from benchmarks.readings import Reading, closed_loop, put_load, single_item_ms
from benchmarks.report import Report, Run, parse
from benchmarks.servers import kotae, textbook
from benchmarks.workloads import Workload, reference_workload

DEADLINES = (5, 20, 80)  # times what a client alone waits
LIMITS = (2, 4, 8, 16, 32, 64)

_Requests = Callable[..., list[bytes]]


def main() -> None:
    """Measure and report."""
    run, options = parse("mixed_deadlines", __doc__, rounds=6, seconds=5, add=_add_options)
    workload = reference_workload("minilm", small=run.quick)
    cores = (run.cores.service,)
    with kotae([workload], cores) as ours:
        ours_peak = closed_loop(ours, workload.requests(), 32, run).rate
        alone_ms = single_item_ms(ours, workload.requests(), run)
        with textbook([workload], cores) as plain:
            theirs_peak = closed_loop(plain, workload.textbook_requests(), 4, run).rate
        offered = options.factor * max(ours_peak, theirs_peak)
        limit, tried = _tune(workload, offered, alone_ms, run)
        with (
            textbook([workload], cores, limit_concurrency=limit) as theirs,
            run.progress(run.rounds * 2) as tick,
        ):
            pairs = interleaved(
                run.rounds,
                partial(put_load, ours, streams(workload.requests, offered, alone_ms), run),
                partial(put_load, theirs, streams(workload.textbook_requests, offered, alone_ms), run),
                tick=tick,
            )
    report = Report(run, "mixed deadlines and costs, overloaded", "goodput over B0's with its best limit")
    least = 1 / run.seconds  # where B0 answers nothing in time, it is counted as if it had answered once
    totals = [(a.goodput, max(b.goodput, least)) for a, b in pairs]
    report.add("all deadlines", ratios(totals), 1.3)
    for number, times in enumerate(DEADLINES):
        rows = [(a.outcomes[number].goodput, max(b.outcomes[number].goodput, least)) for a, b in pairs]
        report.add(f"deadline {times * alone_ms:.3g} ms", ratios(rows))
    for name, peak, column in (("Kotae", ours_peak, 0), ("B0", theirs_peak, 1)):
        share = Estimate.of(row[column].goodput / peak for row in pairs)
        report.add(f"{name}: goodput over its own peak", share)
    report.notes.append(f"offered {offered:.4g}/s; B0's best limit is {limit}")
    report.details |= {"goodput by limit": tried, "peaks": [ours_peak, theirs_peak]}
    report.details["statuses"] = [[_statuses(reading) for reading in pair] for pair in pairs]
    report.finish()


def streams(requests: _Requests, rate: float, alone_ms: float) -> list[Stream]:
    """Give the load: a third of the rate for each deadline."""
    made = []
    for times in DEADLINES:
        deadline_ms = times * alone_ms
        asked = requests(X_Timeout_Ms=f"{deadline_ms:.3f}")
        made.append(Stream(asked, rate=rate / len(DEADLINES), deadline_ms=deadline_ms))
    return made


def _tune(workload: Workload, offered: float, alone_ms: float, run: Run) -> tuple[int, dict[int, float]]:
    """Find the limit at which B0 has the greatest goodput under this load.

    Returns:
        The limit, and the goodput of each that was tried.
    """
    tried: dict[int, float] = {}
    load = streams(workload.textbook_requests, offered, alone_ms)
    limits: Sequence[int] = LIMITS[2:3] if run.quick else LIMITS
    for limit in limits:
        with textbook([workload], (run.cores.service,), limit_concurrency=limit) as server:
            put_load(server, load, run, min(1.0, run.seconds))
            tried[limit] = put_load(server, load, run).goodput
    return max(tried, key=lambda limit: tried[limit]), tried


def _statuses(reading: Reading) -> list[dict[str, int]]:
    return [dict(outcome.statuses) for outcome in reading.outcomes]


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--factor", type=float, default=2.0)


if __name__ == "__main__":
    main()
