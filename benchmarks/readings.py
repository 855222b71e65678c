"""One load on one server, and what the server spent on it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.openloop import Outcome, Stream, load
from benchmarks.report import Run
from benchmarks.servers import Server

_seeds = itertools.count(1)  # every load draws its own arrivals, in the same order from run to run


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of a load.

    Attributes:
        outcomes: One a stream.
        cpu_seconds: What the server used meanwhile.
    """

    outcomes: tuple[Outcome, ...]
    cpu_seconds: float

    @property
    def only(self) -> Outcome:
        """The outcome of the only stream."""
        (outcome,) = self.outcomes
        return outcome

    @property
    def rate(self) -> float:
        """Answers with status 200 a second, over all streams."""
        return sum(outcome.rate for outcome in self.outcomes)

    @property
    def goodput(self) -> float:
        """Answers with status 200 in time a second, over all streams."""
        return sum(outcome.goodput for outcome in self.outcomes)

    @property
    def cpu_ms(self) -> float:
        """Server CPU milliseconds an answer of any status."""
        answers = sum(outcome.ok + outcome.refused for outcome in self.outcomes)
        return self.cpu_seconds / max(1, answers) * 1e3


def put_load(server: Server, streams: Sequence[Stream], run: Run, seconds: float | None = None) -> Reading:
    """Put a load on a server from the other core."""
    server.hold()
    before = server.cpu_seconds()
    length = seconds or run.seconds
    outcomes = load(server.port, streams, length, core=run.cores.load, seed=next(_seeds))
    return Reading(tuple(outcomes), server.cpu_seconds() - before)


def closed_loop(
    server: Server, requests: Sequence[bytes], clients: int, run: Run, seconds: float | None = None
) -> Reading:
    """Let so many clients ask, each waiting for its answer; every request must be answered.

    Raises:
        SystemExit: Some were not.
    """
    reading = put_load(server, [Stream(requests, clients=clients)], run, seconds)
    reading.only.require_clean(server.name)
    return reading


def single_item_ms(server: Server, requests: Sequence[bytes], run: Run) -> float:
    """Measure what one client alone waits for its answer: the median, in milliseconds."""
    return closed_loop(server, requests, 1, run).only.latency_ms["p50"]
