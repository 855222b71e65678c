"""Latency of `/healthz` and `/readyz` on new connections while the service is overloaded.

`python -m benchmarks probes [--clients 64,400] [--http-workers 0,2] [--ports shared,separate]`: closed-loop
clients overload `digits`, the smallest shipped model. Meanwhile each probe opens a new connection, as a
kubelet does, and its time from connecting to the whole answer is measured. With `separate` the service has
an operations port, and every probe that it answers there is measured too. Without HTTP workers the service
has one core; with them it may use every core, and the load uses its share of the last one.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from benchmarks.load import Stream, start_load
from benchmarks.machine import REPOSITORY
from benchmarks.pairs import Estimate
from benchmarks.report import Report, parse
from benchmarks.servers import free_port, kotae
from benchmarks.workloads import shipped_workloads
from service.tools.load.results import LoadSummary

PATHS = ("/healthz", "/readyz")
_PAUSE_SECONDS = 0.05
_TIMEOUT_SECONDS = 10.0
_WARM_UP_SECONDS = 0.5  # until all clients are connected


@dataclass(slots=True)
class Probe:
    """A path on a port, and how it answered.

    Attributes:
        milliseconds: Of answers with status 200.
        failed: Number of other answers, and of probes without an answer.
    """

    port: int
    path: str
    milliseconds: list[float] = field(default_factory=list)
    failed: int = 0

    def send(self) -> None:
        """Probe once."""
        started = time.perf_counter()
        if get_status(self.port, self.path) == 200:
            self.milliseconds.append((time.perf_counter() - started) * 1e3)
        else:
            self.failed += 1


def main() -> None:
    """Measure and report."""
    run, options = parse("probes", __doc__, rounds=1, seconds=10, add=_add_options)
    clients = [8] if run.quick else options.clients
    report = Report(run, "health probes during an overload of digits", "milliseconds")
    columns = (
        "HTTP workers",
        "port",
        "clients",
        "probe",
        "probes",
        "min ms",
        "median ms",
        "max ms",
        "failed",
    )
    table = Table(*columns, title=report.title)
    workload = next(one for one in shipped_workloads(REPOSITORY / "models") if one.name == "digits")
    cases = [(workers, ports) for workers in options.http_workers for ports in options.ports]
    cases = cases[-1:] if run.quick else cases
    with run.progress(len(cases) * len(clients)) as tick:
        for workers, ports in cases:
            cores = sorted({run.cores.service, run.cores.load}) if workers else [run.cores.service]
            settings: dict[str, Any] = {"operations_port": free_port()} if ports == "separate" else {}
            with kotae([workload], cores, http_workers=workers, **settings) as server:
                for count in clients:
                    stream = Stream(workload.requests(), clients=count)
                    seconds = run.seconds + _WARM_UP_SECONDS
                    names = {"main": server.port, "operations": settings.get("operations_port", 0)}
                    probes = {name: answered_probes(port) for name, port in names.items() if port}
                    load = start_load(server.port, [stream], seconds, core=run.cores.load)
                    _probe_during(load, [probe for found in probes.values() for probe in found])
                    for name, found in probes.items():
                        for probe in found:
                            _add(report, table, (str(workers), name, str(count)), probe)
                    report.details[f"load: {workers} workers, {ports} port, {count} clients"] = [
                        summary.as_json() for summary in load.result()
                    ]
                    tick()
    report.finish(table=table)


def answered_probes(port: int) -> list[Probe]:
    """Return the probes that a port answers with 200 while the service is idle."""
    return [Probe(port, path) for path in PATHS if get_status(port, path) == 200]


def _probe_during(load: Future[list[LoadSummary]], probes: Sequence[Probe]) -> None:
    """Send each probe again and again until the load ends, independently of the others."""

    def repeat(probe: Probe) -> None:
        while not load.done():
            probe.send()
            time.sleep(_PAUSE_SECONDS)

    time.sleep(_WARM_UP_SECONDS)
    with ThreadPoolExecutor(len(probes)) as threads:
        list(threads.map(repeat, probes))


def get_status(port: int, path: str) -> int:
    """Return the status of a GET request on a new connection, or 0 without an answer in 10 s."""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
    try:
        with socket.create_connection(("127.0.0.1", port), _TIMEOUT_SECONDS) as connection:
            connection.sendall(request)
            answer = b""
            while part := connection.recv(65536):
                answer += part
    except OSError:
        return 0
    return int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0


def _add(report: Report, table: Table, case: tuple[str, str, str], probe: Probe) -> None:
    times = probe.milliseconds
    figures = (
        [f"{figure:.1f}" for figure in (min(times), statistics.median(times), max(times))]
        if times
        else ["-"] * 3
    )
    table.add_row(*case, probe.path, str(len(times)), *figures, str(probe.failed))
    if times:
        workers, port, clients = case
        what = f"{workers} workers, {port} port, {clients} clients: {probe.path}"
        report.add(what, Estimate.of(times))


def _add_options(parser: argparse.ArgumentParser) -> None:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",")]

    parser.add_argument("--clients", type=numbers, default=[64, 400])
    parser.add_argument("--http-workers", type=numbers, default=[0, 2])
    parser.add_argument("--ports", type=lambda text: text.split(","), default=["shared", "separate"])
