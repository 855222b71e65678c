"""Runs loads on servers with `kotae bench`'s generator, from a process on a core of its own."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache

import uvloop

from benchmarks.report import Run
from benchmarks.servers import Server
from service.tools.load.generator import LoadGenerator
from service.tools.load.plan import LoadPlan, TargetAddress
from service.tools.load.results import LoadRecorder, LoadSummary, summarise

_MAX_CONNECTIONS = 2000
_seeds = itertools.count(1)  # each load has its own arrival times, the same in every run


@dataclass(frozen=True, slots=True)
class Stream:
    """One kind of request in a load.

    Attributes:
        requests: Complete HTTP requests, sent in turn.
        clients: Closed loop: number of clients. 0 in open loop.
        rate: Open loop: mean requests a second. 0 in closed loop.
        deadline_ms: From the due time of a request; None is no deadline.
    """

    requests: Sequence[bytes]
    clients: int = 0
    rate: float = 0.0
    deadline_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """The results of a load.

    Attributes:
        summaries: One for each stream.
        cpu_seconds: CPU time of the server meanwhile.
    """

    summaries: tuple[LoadSummary, ...]
    cpu_seconds: float

    @property
    def only(self) -> LoadSummary:
        """The summary of the only stream."""
        (summary,) = self.summaries
        return summary

    @property
    def rate(self) -> float:
        """Answers with status 200 a second, over all streams."""
        return sum(summary.answered_rate for summary in self.summaries)

    @property
    def goodput(self) -> float:
        """Answers with status 200 within the deadline a second, over all streams."""
        return sum(summary.goodput for summary in self.summaries)

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds of the server for each answer of any status."""
        answers = sum(summary.ok + summary.refused for summary in self.summaries)
        return self.cpu_seconds / max(1, answers) * 1e3


def run_load(server: Server, streams: Sequence[Stream], run: Run, seconds: float | None = None) -> Reading:
    """Put a load on a server and measure its CPU time."""
    server.set_affinity()
    before = server.cpu_seconds()
    summaries = load(server.port, streams, seconds or run.seconds, core=run.cores.load, seed=next(_seeds))
    return Reading(tuple(summaries), server.cpu_seconds() - before)


def closed_loop(
    server: Server, requests: Sequence[bytes], clients: int, run: Run, seconds: float | None = None
) -> Reading:
    """Put a closed-loop load on a server.

    Raises:
        SystemExit: A request was not answered with status 200.
    """
    reading = run_load(server, [Stream(requests, clients=clients)], run, seconds)
    require_all_ok(reading.only, server.name)
    return reading


def single_item_ms(server: Server, requests: Sequence[bytes], run: Run) -> float:
    """Measure the median latency of a single client in milliseconds."""
    return closed_loop(server, requests, 1, run).only.latency_ms["p50"]


def require_all_ok(summary: LoadSummary, name: str) -> None:
    """Check that every request was answered with status 200.

    Raises:
        SystemExit: One was not.
    """
    if summary.refused or summary.broken or summary.unanswered or summary.unsent or not summary.ok:
        raise SystemExit(f"{name}: not every request was answered: {summary}")


def load(
    port: int, streams: Sequence[Stream], seconds: float, *, core: int, seed: int = 1
) -> list[LoadSummary]:
    """Run a load from one core and return a summary for each stream."""
    return start_load(port, streams, seconds, core=core, seed=seed).result()


def start_load(
    port: int, streams: Sequence[Stream], seconds: float, *, core: int, seed: int = 1
) -> Future[list[LoadSummary]]:
    """Start a load from one core.

    Args:
        port: On 127.0.0.1.
        streams: All of them run at the same time.
        seconds: Duration.
        core: Where the generator runs.
        seed: Of the arrival times.

    Returns:
        One summary for each stream, once the load has ended.
    """
    plans = [
        LoadPlan(
            TargetAddress("127.0.0.1", port),
            tuple(stream.requests),
            seconds,
            clients=stream.clients,
            rate=stream.rate,
            deadline_seconds=None if stream.deadline_ms is None else stream.deadline_ms / 1e3,
            max_connections=_MAX_CONNECTIONS,
            seed=1000 * seed + number,
        )
        for number, stream in enumerate(streams)
    ]
    return _process_on(core).submit(_generate, plans)


@cache
def _process_on(core: int) -> ProcessPoolExecutor:
    """Return the process that generates the load on a core; it lives as long as this one."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, initializer=os.sched_setaffinity, initargs=(0, {core}))


def _generate(plans: Sequence[LoadPlan]) -> list[LoadSummary]:
    recorders = [LoadRecorder(plan.deadline_seconds) for plan in plans]

    async def generate() -> list[float]:
        generators = [LoadGenerator(*pair) for pair in zip(plans, recorders, strict=True)]
        return await asyncio.gather(*(generator.run() for generator in generators))

    seconds = uvloop.run(generate())
    return [summarise(*pair) for pair in zip(recorders, seconds, strict=True)]
