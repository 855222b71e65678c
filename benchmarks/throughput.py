"""Throughput, latency and CPU time against the FastAPI baseline: same weights, same items, interleaved.

`python -m benchmarks throughput [--models tiny,minilm] [--clients 1,8,32,64]`: requests a second of
closed-loop clients, p50 latency of a single client, and server CPU time a request, each as a ratio to the
baseline. Both servers run on one core with one ONNX Runtime thread. `--models all` measures every reference
model and every shipped model that the baseline can serve.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.load import Reading, closed_loop
from benchmarks.machine import REPOSITORY
from benchmarks.pairs import Estimate, interleaved
from benchmarks.report import Report, Run, parse
from benchmarks.servers import Server, fastapi_baseline, kotae
from benchmarks.workloads import Workload, reference_workload, shipped_workloads

REFERENCE = ("tiny", "small", "resnet18", "minilm")
_CPU_GOALS = {"tiny": 0.5}


def main() -> None:
    """Measure and report."""
    run, options = parse("throughput", __doc__, rounds=6, seconds=1, add=_add_options)
    clients = (1, 2) if run.quick else options.clients
    names = ["tiny"] if run.quick else options.models
    report = Report(run, "requests a second over the FastAPI baseline", "ratio to the FastAPI baseline")
    workloads = choose(names, small=run.quick)
    with run.progress(len(workloads) * len(clients) * run.rounds * 2) as tick:
        for workload in workloads:
            cores = (run.cores.service,)
            threads = options.baseline_threads
            with (
                kotae([workload], cores) as ours,
                fastapi_baseline([workload], cores, threads=threads) as theirs,
            ):
                targets = ((ours, workload.requests()), (theirs, workload.baseline_requests()))
                for count in clients:
                    pairs = _compare(run, targets, count, tick)
                    _report(report, workload.name, count, pairs)
    report.finish()


def choose(names: Sequence[str], *, small: bool) -> list[Workload]:
    """Return workloads by name; `all` means all of them."""
    shipped = {workload.name: workload for workload in shipped_workloads(REPOSITORY / "models")}
    if "all" in names:
        names = [*REFERENCE, *shipped]
    if unknown := set(names) - {*REFERENCE, *shipped}:
        raise SystemExit(f"no such model: {', '.join(sorted(unknown))}")
    return [shipped[name] if name in shipped else reference_workload(name, small=small) for name in names]


def _add_options(parser: argparse.ArgumentParser) -> None:
    default = "tiny,resnet18,minilm,digits"
    parser.add_argument("--models", type=lambda text: text.split(","), default=default.split(","))
    parser.add_argument(
        "--clients", type=lambda text: [int(part) for part in text.split(",")], default=[1, 8, 32, 64]
    )
    parser.add_argument(
        "--baseline-threads",
        type=int,
        default=0,
        help="ONNX Runtime's threads in the FastAPI baseline; else its cores",
    )


def _compare(
    run: Run, targets: Sequence[tuple[Server, list[bytes]]], clients: int, tick: Callable[[], None]
) -> list[tuple[Reading, ...]]:
    for server, requests in targets:
        closed_loop(server, requests, clients, run, min(0.5, run.seconds))
    measures = [partial(closed_loop, server, requests, clients, run) for server, requests in targets]
    return interleaved(run.rounds, *measures, tick=tick)


def _report(report: Report, name: str, clients: int, pairs: Sequence[tuple[Reading, ...]]) -> None:
    rates = Estimate.of(a.rate / b.rate for a, b in pairs)
    report.add(f"{name}, {clients} clients: rate", rates, 0.95)
    if clients == 1:
        waits = Estimate.of(a.only.latency_ms["p50"] / b.only.latency_ms["p50"] for a, b in pairs)
        report.add(f"{name}, alone: p50", waits, 1.1, at_least=False)
    cpu = Estimate.of(a.cpu_ms / b.cpu_ms for a, b in pairs)
    report.add(f"{name}, {clients} clients: CPU a request", cpu, _CPU_GOALS.get(name), at_least=False)
    report.details[f"{name}, {clients} clients"] = [
        {
            "rate": [reading.rate for reading in pair],
            "cpu_ms": [reading.cpu_ms for reading in pair],
            "latency_ms": [reading.only.latency_ms for reading in pair],
        }
        for pair in pairs
    ]
