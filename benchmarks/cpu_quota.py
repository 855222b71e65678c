"""Two models on two CPUs, against a baseline whose thread pools are sized for a host of 32 cores.

`python -m benchmarks cpu_quota [--believed 32]`: `resnet18` and `small` under load at once, 8 clients each.
ONNX Runtime sizes its pools by the host's cores and ignores cgroup quotas, so the baseline gets that many
threads for each session, all pinned to the two cores. Kotae chooses its own number. The throttling of a
real quota is not emulated.
"""

from __future__ import annotations

import argparse
from functools import partial

from benchmarks.load import Stream, run_load
from benchmarks.pairs import Estimate, interleaved
from benchmarks.report import Report, parse
from benchmarks.servers import fastapi_baseline, kotae
from benchmarks.workloads import reference_workload


def main() -> None:
    """Measure and report."""
    run, options = parse("cpu_quota", __doc__, rounds=6, seconds=4, add=_add_options)
    names = ("tiny", "small") if run.quick else ("resnet18", "small")
    models = [reference_workload(name, small=run.quick) for name in names]
    clients = 1 if run.quick else options.clients
    cores = sorted({run.cores.service, run.cores.load})
    ours_load = [Stream(model.requests(), clients=clients) for model in models]
    theirs_load = [Stream(model.baseline_requests(), clients=clients) for model in models]
    believed = 2 if run.quick else options.believed
    with (
        kotae(models, cores) as ours,
        fastapi_baseline(models, cores, threads=believed) as theirs,
        run.progress(run.rounds * 2) as tick,
    ):
        for server, load in ((ours, ours_load), (theirs, theirs_load)):
            run_load(server, load, run, min(1.0, run.seconds))
        pairs = interleaved(
            run.rounds,
            partial(run_load, ours, ours_load, run),
            partial(run_load, theirs, theirs_load, run),
            tick=tick,
        )
    report = Report(
        run,
        f"two models on two CPUs, the FastAPI baseline believes {believed}",
        "ratio to the FastAPI baseline",
    )
    for number, name in enumerate(names):
        a = [row[0].summaries[number] for row in pairs]
        b = [row[1].summaries[number] for row in pairs]
        rates = Estimate.of(x.answered_rate / y.answered_rate for x, y in zip(a, b, strict=True))
        report.add(f"{name}: requests a second", rates, 2.0)
        waits = Estimate.of(x.latency_ms["p99"] / y.latency_ms["p99"] for x, y in zip(a, b, strict=True))
        report.add(f"{name}: p99", waits, 0.5, at_least=False)
    report.details["requests a second"] = [
        [[summary.answered_rate for summary in reading.summaries] for reading in pair] for pair in pairs
    ]
    report.finish()


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--believed", type=int, default=32)
    parser.add_argument("--clients", type=int, default=8)
