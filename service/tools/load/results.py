"""The results of a load: counts by status, latencies, and their summary."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


class LoadRecorder:
    """Counters of a running load. Times are in seconds.

    Attributes:
        statuses: Answers by status.
        latencies: Of answers with status 200, from their due time.
        refusals: The same of all other answers.
        lags: Open loop: how late the generator itself was with each request.
        due: Requests that should have been sent.
        sent: Requests that were sent.
        in_deadline: Answers with status 200 within the deadline.
        broken: Requests whose connection ended before the whole answer had arrived.
        unanswered: Requests that timed out.
        unsent: Requests that found no free connection, nor room to wait for one.
    """

    def __init__(self, deadline_seconds: float | None = None) -> None:
        self.statuses: Counter[int] = Counter()
        self.latencies = array("d")
        self.refusals = array("d")
        self.lags = array("d")
        self.due = 0
        self.sent = 0
        self.in_deadline = 0
        self.broken = 0
        self.unanswered = 0
        self.unsent = 0
        self._deadline_seconds = np.inf if deadline_seconds is None else deadline_seconds

    def record(self, status: int, seconds: float) -> None:
        """Count an answer and its latency."""
        self.statuses[status] += 1
        if status == 200:
            self.latencies.append(seconds)
            self.in_deadline += seconds <= self._deadline_seconds
        else:
            self.refusals.append(seconds)

    @property
    def answered(self) -> int:
        """Answers of any status."""
        return sum(self.statuses.values())


@dataclass(frozen=True, slots=True)
class LoadSummary:
    """The results of a finished load. Times are in milliseconds, rates in requests a second.

    Attributes:
        seconds: Duration that the rates refer to.
        requests: Requests that were due.
        offered_rate: Rate of requests that were due.
        answered_rate: Rate of answers with status 200.
        goodput: Rate of answers with status 200 within the deadline; without a deadline `answered_rate`.
        late: Number of answers with status 200 after the deadline.
        latency_ms: Quantiles, mean and maximum of answers with status 200.
        refusal_ms: The same of all other answers.
        lag_ms: The same of the generator's own delay; empty in closed loop.
    """

    seconds: float
    requests: int
    offered_rate: float
    answered_rate: float
    goodput: float
    late: int
    statuses: dict[str, int]
    broken: int
    unanswered: int
    unsent: int
    latency_ms: dict[str, float]
    refusal_ms: dict[str, float]
    lag_ms: dict[str, float]

    @property
    def ok(self) -> int:
        """Number of answers with status 200."""
        return self.statuses.get("200", 0)

    @property
    def refused(self) -> int:
        """Number of answers with another status."""
        return sum(self.statuses.values()) - self.ok

    def as_json(self) -> dict[str, object]:
        """Return all fields, for a JSON file."""
        return asdict(self)


def summarise(recorder: LoadRecorder, seconds: float) -> LoadSummary:
    """Compute rates and quantiles.

    Args:
        recorder: Of a finished load.
        seconds: How long requests were sent; in closed loop, until the last answer.
    """
    good = len(recorder.latencies)
    return LoadSummary(
        seconds=seconds,
        requests=recorder.due,
        offered_rate=recorder.due / seconds,
        answered_rate=good / seconds,
        goodput=recorder.in_deadline / seconds,
        late=good - recorder.in_deadline,
        statuses={str(status): count for status, count in sorted(recorder.statuses.items())},
        broken=recorder.broken,
        unanswered=recorder.unanswered,
        unsent=recorder.unsent,
        latency_ms=_quantiles_ms(recorder.latencies),
        refusal_ms=_quantiles_ms(recorder.refusals),
        lag_ms=_quantiles_ms(recorder.lags),
    )


def _quantiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Return observed quantiles (no interpolation), mean and maximum in ms; empty without values."""
    if not seconds:
        return {}
    values = np.asarray(seconds) * 1000
    quantiles = np.quantile(values, list(_QUANTILES.values()), method="higher")
    found = dict(zip(_QUANTILES, map(float, quantiles), strict=True))
    return {**found, "mean": float(values.mean()), "max": float(values.max())}
