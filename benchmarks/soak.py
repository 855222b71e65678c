"""Soak test: five minutes of good and bad requests, short deadlines and closed connections, all mixed.

`python -m benchmarks soak [--seconds 300] [--clients 16]`. Afterwards every request must have its answer,
each answer must be right for its request, memory must be flat after the warm-up, no request or item may be
left in work, and the service's counters must equal what the clients observed. How a request ends whose
client closed the connection is known to the service alone, so those may be counted under any of several
statuses.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import uvloop
from rich.progress import Progress

from benchmarks.machine import REPOSITORY
from benchmarks.pairs import Estimate
from benchmarks.report import Report, parse
from benchmarks.servers import Counters, Server, kotae
from benchmarks.traffic import MAX_BODY_BYTES, Draw, Observed, mixture, run_client
from benchmarks.workloads import reference_workload, shipped_workloads
from service.tasks import TASKS

_OWN_ROUTES = ("/metrics", "/healthz", "/readyz")
_AFTER_HANG_UP = (200, 429, 499, 504)  # how a request may end whose client closed the connection
_SETTLE_SECONDS = 70.0  # longer than any deadline in use
_SAMPLE_SECONDS = 1.0
_GROWTH_GOAL = 0.02


@dataclass(slots=True)
class ResourceUse:
    """Resources of the server over time: resident bytes and open files at these seconds."""

    seconds: list[float] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def growth(self) -> float:
        """Return the growth of memory from the second to the last quarter, as a share.

        The first quarter is warm-up, in which caches, arenas and thread stacks fill.
        """
        quarter = max(1, len(self.resident) // 4)
        warm, last = self.resident[quarter : 2 * quarter], self.resident[-quarter:]
        return statistics.median(last) / statistics.median(warm or last) - 1


def main() -> None:
    """Run the soak test and report."""
    run, options = parse("soak", __doc__, rounds=1, seconds=300, add=_add_options)
    seconds = 3.0 if run.quick else run.seconds
    models = [] if run.quick else shipped_workloads(REPOSITORY / "models", TASKS)
    models += [reference_workload("tiny", small=run.quick), reference_workload("minilm", small=True)]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        settings = {"max_body_bytes": MAX_BODY_BYTES}
        with kotae(models, [run.cores.service], log=log, **settings) as server:
            os.sched_setaffinity(0, {run.cores.load})
            before = server.counters()
            observed, used = uvloop.run(_soak(server, options.clients, seconds, mixture(models)))
            after = _settled(server)
            ready, _ = server.get("/readyz")
        errors = _errors(log)
    report = Report(run, f"{seconds:g} s of mixed traffic", "count, or share")
    _judge(report, observed, used, before, after)
    report.add("error lines in the log", Estimate.of([len(errors)]), 0, at_least=False)
    report.add("ready at the end", Estimate.of([float(ready == 200)]), 1)
    report.notes += [*errors[:5], *observed.wrong[:5]]
    kinds = {f"{kind} {status}": count for (kind, status), count in sorted(observed.kinds.items())}
    report.notes.append(
        f"{sum(observed.statuses.values())} answers, {observed.abandoned} requests not awaited, "
        f"{observed.truncated} sent in part: {kinds}"
    )
    report.details |= {"resources": asdict(used), "kinds": kinds, "wrong": observed.wrong, "errors": errors}
    report.finish(lambda path: _draw(path, used, report.title))
    if any(row.verdict != "yes" for row in report.rows if row.goal is not None and not run.quick):
        raise SystemExit(1)


async def _soak(server: Server, clients: int, seconds: float, draw: Draw) -> tuple[Observed, ResourceUse]:
    """Run the clients and sample the resources of the server."""
    observed, used = Observed(), ResourceUse()
    began = time.monotonic()
    tasks = [
        asyncio.create_task(run_client(server.port, draw, observed, began + seconds, seed))
        for seed in range(clients)
    ]
    with Progress(transient=True) as progress:
        bar = progress.add_task("soak", total=seconds)
        while any(not client.done() for client in tasks):
            elapsed = time.monotonic() - began
            used.seconds.append(elapsed)
            used.resident.append(server.resident_bytes())
            used.files.append(len(os.listdir(f"/proc/{server.process.pid}/fd")))
            progress.update(bar, completed=min(elapsed, seconds))
            await asyncio.wait(tasks, timeout=min(_SAMPLE_SECONDS, seconds / 20))
    for client in tasks:
        client.result()
    return observed, used


def _settled(server: Server) -> Counters:
    """Wait until only this scrape itself is in work, and return the counters."""
    end = time.monotonic() + _SETTLE_SECONDS
    while True:
        counters = server.counters()
        busy = counters.total("kotae_inflight_requests") > 1 or counters.total("kotae_queue_items") > 0
        if not busy or time.monotonic() > end:
            return counters
        time.sleep(0.1)


def mismatches(observed: Observed, before: Counters, after: Counters) -> list[str]:
    """Return the differences between the service's counters and what the clients observed."""
    counted = _requests(after)
    counted.subtract(_requests(before))
    problems = []
    unknown = 0
    for status in sorted({*counted, *observed.statuses}):
        more = counted[status] - observed.statuses[status]
        if more < 0:
            problems.append(f"status {status}: the service counted {-more} fewer than the clients")
        elif more and status not in _AFTER_HANG_UP:
            problems.append(f"status {status}: the service counted {more} more than the clients")
        unknown += max(0, more)
    most = observed.abandoned + observed.truncated
    if not observed.abandoned <= unknown <= most:
        problems.append(
            f"{unknown} requests that no client awaited; {observed.abandoned} to {most} were sent"
        )
    items = after.total("kotae_items_total") - before.total("kotae_items_total")
    answered = counted[200] - observed.statuses[200]
    if not observed.items <= items <= observed.items + answered:
        problems.append(f"the service counted {items:g} items, the clients {observed.items}")
    return problems


def _requests(counters: Counters) -> Counter[int]:
    """Count requests by status, without this program's own scrapes and probes."""
    found: Counter[int] = Counter()
    for status, count in counters.by("kotae_requests_total", "status").items():
        own = sum(counters.total("kotae_requests_total", route=r, status=status) for r in _OWN_ROUTES)
        found[int(status)] += int(count - own)
    return found


def _judge(report: Report, observed: Observed, used: ResourceUse, before: Counters, after: Counters) -> None:
    problems = mismatches(observed, before, after)
    left = max(0.0, after.total("kotae_inflight_requests") - 1) + after.total("kotae_queue_items")
    for what, count in (
        ("requests without an answer", observed.unanswered),
        ("connections broken by the service", observed.broken),
        ("wrong answers", observed.wrong_count),
        ("counters that differ", len(problems)),
        ("requests or items left in work", left),
    ):
        report.add(what, Estimate.of([float(count)]), 0, at_least=False)
    growth = Estimate.of([used.growth()])
    report.add("growth of memory, second to last quarter", growth, _GROWTH_GOAL, at_least=False)
    report.notes += problems
    report.notes.append(
        f"memory {used.resident[0] / 2**20:.0f} → {used.resident[-1] / 2**20:.0f} MiB, "
        f"open files {used.files[0]} → {used.files[-1]}"
    )


def _errors(log: Path) -> list[str]:
    """Return the lines of the log with level error or critical."""
    found = []
    for line in log.read_text(encoding="utf-8").splitlines():
        if json.loads(line)["level"] in ("error", "critical"):
            found.append(line[:500])
    return found


def _draw(path: Path, used: ResourceUse, title: str) -> None:
    from matplotlib.figure import Figure  # noqa: PLC0415 # slow to load

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(used.seconds, [size / 2**20 for size in used.resident])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds")
    axes.set_ylabel("resident memory, MiB")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=int, default=16)
