"""`--http-workers N` against one process: same model, same JPEG files, interleaved.

`python -m benchmarks http_workers [--workers 2] [--clients 8,32] [--width 1280]`: a tiny network behind
photographs, so that most of the work is decoding. Both services may use both cores, and the load uses its
share of the second one. The answers of both are compared before anything is measured.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.load import closed_loop
from benchmarks.pairs import Estimate, interleaved
from benchmarks.payloads import jpeg, photograph
from benchmarks.report import Report, Run, parse
from benchmarks.servers import Server, kotae
from benchmarks.workloads import Workload, reference_workload

_PICTURES = 16
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Reading:
    """One load on a service, with the CPU time of all its processes."""

    rate: float
    p99_ms: float
    cpu_ms: float


def main() -> None:
    """Measure and report."""
    run, options = parse("http_workers", __doc__, rounds=6, seconds=2, add=_add_options)
    cores = sorted({run.cores.service, run.cores.load})
    workload = _photographs(64 if run.quick else options.width)
    requests = workload.requests()
    clients = (2,) if run.quick else options.clients
    title = f"{options.workers} HTTP workers, JPEGs of {options.width} pixels, on {len(cores)} cores"
    report = Report(run, title, "ratio to one process")
    with (
        kotae([workload], cores, http_workers=options.workers) as several,
        kotae([workload], cores) as single,
        run.progress(len(clients) * run.rounds * 2) as tick,
    ):
        _compare(several, single, workload)
        for count in clients:
            measures = [partial(_measure, server, requests, count, run) for server in (several, single)]
            for measure in measures:
                measure()
            pairs = interleaved(run.rounds, *measures, tick=tick)
            name = f"{count} clients"
            report.add(f"{name}: requests a second", Estimate.of(a.rate / b.rate for a, b in pairs), 1.0)
            report.add(f"{name}: p99", Estimate.of(a.p99_ms / b.p99_ms for a, b in pairs))
            report.add(f"{name}: CPU a request", Estimate.of(a.cpu_ms / b.cpu_ms for a, b in pairs))
            report.details[name] = [[[x.rate, x.p99_ms, x.cpu_ms] for x in pair] for pair in pairs]
    report.finish()


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--clients", type=lambda text: [int(part) for part in text.split(",")], default=[8, 32]
    )
    parser.add_argument("--width", type=int, default=1280, help="of the photographs (default %(default)s)")


def _photographs(width: int) -> Workload:
    items = tuple(jpeg(photograph(width, width * 3 // 4, seed)) for seed in range(_PICTURES))
    return replace(reference_workload("tiny"), items=items)


def _compare(several: Server, single: Server, workload: Workload) -> None:
    """Check that both answer every picture in the same way.

    Raises:
        SystemExit: They do not.
    """
    for item in workload.items:
        answers = [_ask(server, item, workload.name) for server in (several, single)]
        if answers[0] != answers[1] or not answers[0]:
            raise SystemExit(f"the answers differ: {answers[0]} and {answers[1]}")


def _ask(server: Server, item: bytes, model: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", f"/v1/image-classification?model={model}", item)
    results = json.loads(connection.getresponse().read()).get("results")
    connection.close()
    return results


def _measure(server: Server, requests: Sequence[bytes], clients: int, run: Run) -> Reading:
    before = sum(_cpu_seconds(server.process.pid))
    summary = closed_loop(server, requests, clients, run).only
    used = sum(_cpu_seconds(server.process.pid)) - before
    return Reading(summary.answered_rate, summary.latency_ms["p99"], used / max(1, summary.ok) * 1e3)


def _cpu_seconds(pid: int) -> Iterator[float]:
    """Yield the CPU time of a process and of each of its children."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # the process has ended
            continue
        if int(folder.name) == pid or int(fields[1]) == pid:
            yield (int(fields[11]) + int(fields[12])) / _TICKS
