"""Kotae against the textbook endpoint (`B0`): the same weights, the same items, interleaved in one run.

`python -m benchmarks.throughput [--models tiny,minilm] [--clients 1,8,32,64]`: requests a second over B0's
at so many closed-loop clients, the p50 of a client alone over B0's, and server CPU a request over B0's.
Both are held on one core, with one ONNX Runtime thread. `--models all` takes every reference model and
every shipped one that B0 can answer.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial

from benchmarks.machine import REPOSITORY
from benchmarks.pairs import Estimate, interleaved
from benchmarks.readings import Reading, closed_loop
from benchmarks.report import Report, Run, parse
from benchmarks.servers import Server, kotae, textbook
from benchmarks.workloads import Workload, reference_workload, shipped_workloads

REFERENCE = ("tiny", "small", "resnet18", "minilm")
_CPU_GOALS = {"tiny": 0.5}


def main() -> None:
    """Measure and report."""
    run, options = parse("throughput", __doc__, rounds=6, seconds=1, add=_add_options)
    clients = (1, 2) if run.quick else options.clients
    names = ["tiny"] if run.quick else options.models
    report = Report(run, "requests a second over the textbook endpoint", "ratio to B0")
    workloads = choose(names, small=run.quick)
    with run.progress(len(workloads) * len(clients) * run.rounds * 2) as tick:
        for workload in workloads:
            cores = (run.cores.service,)
            threads = options.textbook_threads
            with kotae([workload], cores) as ours, textbook([workload], cores, threads=threads) as theirs:
                asked = ((ours, workload.requests()), (theirs, workload.textbook_requests()))
                for count in clients:
                    pairs = _compare(run, asked, count, tick)
                    _report(report, workload.name, count, pairs)
    report.finish()


def choose(names: Sequence[str], *, small: bool) -> list[Workload]:
    """Find workloads by name; `all` is all of them."""
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
        "--textbook-threads", type=int, default=0, help="ONNX Runtime's threads in B0; else its cores"
    )


def _compare(
    run: Run, asked: Sequence[tuple[Server, list[bytes]]], clients: int, tick: Callable[[], None]
) -> list[tuple[Reading, ...]]:
    for server, requests in asked:
        closed_loop(server, requests, clients, run, min(0.5, run.seconds))
    measures = [partial(closed_loop, server, requests, clients, run) for server, requests in asked]
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


if __name__ == "__main__":
    main()
