"""The soak: five minutes of good and bad requests, hang-ups and deadlines, all mixed.

`python -m benchmarks.soak [--seconds 300] [--clients 16]`: afterwards no request may be without its
answer, every answer must be right for what was asked, memory must be flat once warm, nothing may be left
in work or in a queue, and the service's counters must equal what the clients saw. A client that hangs up
does not know what became of its request: those may stand in any counter, but only as often as there were
such.
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
from benchmarks.soak_clients import MAX_BODY_BYTES, Draw, Seen, asks, visit
from benchmarks.workloads import reference_workload, shipped_workloads
from service.tasks import TASKS

_OWN_ROUTES = ("/metrics", "/healthz", "/readyz")
_OF_LOST = (200, 429, 499, 504)  # what a request may end with whose client is gone
_SETTLE_SECONDS = 70.0  # longer than any deadline that is asked for
_SAMPLE_SECONDS = 1.0
_GROWTH_GOAL = 0.02


@dataclass(slots=True)
class Held:
    """What the server held over time: seconds, resident bytes, open files."""

    seconds: list[float] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def growth(self) -> float:
        """Give by how much the last quarter's memory is over the second quarter's, as a share.

        The first quarter is warm-up: caches, arenas and thread stacks fill.
        """
        quarter = max(1, len(self.resident) // 4)
        warm, last = self.resident[quarter : 2 * quarter], self.resident[-quarter:]
        return statistics.median(last) / statistics.median(warm or last) - 1


def main() -> None:
    """Soak and report."""
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
            seen, held = uvloop.run(_soak(server, options.clients, seconds, asks(models)))
            after = _settled(server)
            ready, _ = server.get("/readyz")
        errors = _errors(log)
    report = Report(run, f"{seconds:g} s of good, bad, late and lost requests", "count, or share")
    _judge(report, seen, held, before, after)
    report.add("error lines in the log", Estimate.of([len(errors)]), 0, at_least=False)
    report.add("ready at the end", Estimate.of([float(ready == 200)]), 1)
    report.notes += [*errors[:5], *seen.wrong[:5]]
    kinds = {f"{kind} {status}": count for (kind, status), count in sorted(seen.kinds.items())}
    report.notes.append(
        f"{sum(seen.statuses.values())} answers, {seen.gone} hung up, {seen.cut} cut short: {kinds}"
    )
    report.details |= {"held": asdict(held), "kinds": kinds, "wrong": seen.wrong, "errors": errors}
    report.finish(lambda path: _draw(path, held, report.title))
    if any(row.verdict != "yes" for row in report.rows if row.goal is not None and not run.quick):
        raise SystemExit(1)


async def _soak(server: Server, clients: int, seconds: float, draw: Draw) -> tuple[Seen, Held]:
    """Let the clients loose, and watch what the server holds."""
    seen, held = Seen(), Held()
    began = time.monotonic()
    visits = [
        asyncio.create_task(visit(server.port, draw, seen, began + seconds, seed)) for seed in range(clients)
    ]
    with Progress(transient=True) as progress:
        bar = progress.add_task("soak", total=seconds)
        while any(not one.done() for one in visits):
            elapsed = time.monotonic() - began
            held.seconds.append(elapsed)
            held.resident.append(server.resident_bytes())
            held.files.append(len(os.listdir(f"/proc/{server.process.pid}/fd")))
            progress.update(bar, completed=min(elapsed, seconds))
            await asyncio.wait(visits, timeout=min(_SAMPLE_SECONDS, seconds / 20))
    for one in visits:
        one.result()
    return seen, held


def _settled(server: Server) -> Counters:
    """Wait until nothing is in work any more but this very question, and read the counters."""
    end = time.monotonic() + _SETTLE_SECONDS
    while True:
        counters = server.counters()
        busy = counters.total("kotae_inflight_requests") > 1 or counters.total("kotae_queue_items") > 0
        if not busy or time.monotonic() > end:
            return counters
        time.sleep(0.1)


def mismatches(seen: Seen, before: Counters, after: Counters) -> list[str]:
    """Compare the service's counters with what the clients saw.

    Returns:
        What does not fit; empty where all does.
    """
    counted = _requests(after)
    counted.subtract(_requests(before))
    problems = []
    unknown = 0
    for status in sorted({*counted, *seen.statuses}):
        more = counted[status] - seen.statuses[status]
        if more < 0:
            problems.append(f"status {status}: the service counted {-more} fewer than clients saw")
        elif more and status not in _OF_LOST:
            problems.append(f"status {status}: the service counted {more} more than clients saw")
        unknown += max(0, more)
    lost = seen.gone + seen.cut
    if not seen.gone <= unknown <= lost:
        problems.append(f"{unknown} requests that no client waited for; {seen.gone} to {lost} were sent")
    items = after.total("kotae_items_total") - before.total("kotae_items_total")
    answered = counted[200] - seen.statuses[200]
    if not seen.items <= items <= seen.items + answered:
        problems.append(f"the service counted {items:g} items, clients saw {seen.items}")
    return problems


def _requests(counters: Counters) -> Counter[int]:
    """Count requests by status, less those that this program itself makes to look."""
    found: Counter[int] = Counter()
    for status, count in counters.by("kotae_requests_total", "status").items():
        own = sum(counters.total("kotae_requests_total", route=r, status=status) for r in _OWN_ROUTES)
        found[int(status)] += int(count - own)
    return found


def _judge(report: Report, seen: Seen, held: Held, before: Counters, after: Counters) -> None:
    problems = mismatches(seen, before, after)
    left = max(0.0, after.total("kotae_inflight_requests") - 1) + after.total("kotae_queue_items")
    for what, count in (
        ("requests without an answer", seen.stuck),
        ("connections broken by the service", seen.broken),
        ("answers that are not right", seen.wrongs),
        ("counters that differ", len(problems)),
        ("requests or items left in work", left),
    ):
        report.add(what, Estimate.of([float(count)]), 0, at_least=False)
    growth = Estimate.of([held.growth()])
    report.add("growth of memory, warm to last quarter", growth, _GROWTH_GOAL, at_least=False)
    report.notes += problems
    report.notes.append(
        f"memory {held.resident[0] / 2**20:.0f} → {held.resident[-1] / 2**20:.0f} MiB, "
        f"open files {held.files[0]} → {held.files[-1]}"
    )


def _errors(log: Path) -> list[str]:
    """Give the log's lines that speak of errors of ours."""
    found = []
    for line in log.read_text(encoding="utf-8").splitlines():
        if json.loads(line)["level"] in ("error", "critical"):
            found.append(line[:500])
    return found


def _draw(path: Path, held: Held, title: str) -> None:
    from matplotlib.figure import Figure  # noqa: PLC0415 # slow to load

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(held.seconds, [size / 2**20 for size in held.resident])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds")
    axes.set_ylabel("resident memory, MiB")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=int, default=16)


if __name__ == "__main__":
    main()
