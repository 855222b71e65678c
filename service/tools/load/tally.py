"""What came of the requests: counts by status, latencies, and what can be said of them."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


class Tally:
    """Counts, while the load runs. Latencies are in seconds.

    Attributes:
        statuses: Answers by status.
        latencies: Of the answers with status 200, from when their request was meant to leave.
        refusals: Of all other answers.
        lags: In open loop, how late the generator itself was with each arrival.
        sent: Requests that left.
        in_deadline: Answers with status 200 that came in time.
        broken: Requests whose connection ended before the answer was whole.
        unanswered: Requests whose answer was not waited for any longer.
        unsent: Requests that found no free connection.
    """

    def __init__(self, deadline_seconds: float | None = None) -> None:
        self.statuses: Counter[int] = Counter()
        self.latencies = array("d")
        self.refusals = array("d")
        self.lags = array("d")
        self.sent = 0
        self.in_deadline = 0
        self.broken = 0
        self.unanswered = 0
        self.unsent = 0
        self._deadline_seconds = np.inf if deadline_seconds is None else deadline_seconds

    def record(self, status: int, seconds: float) -> None:
        """Take an answer."""
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
class Summary:
    """A finished load in numbers; times in milliseconds, rates a second.

    Attributes:
        offered_rate: Requests that were meant to leave.
        answered_rate: Answers with status 200.
        goodput: Answers with status 200 within the deadline; as above where there is none.
        late: Answers with status 200 after the deadline.
        latency_ms: Quantiles, mean and maximum of the answers with status 200.
        refusal_ms: The same of all other answers.
        lag_ms: The same of how late the generator itself was with its arrivals; empty in closed loop.
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

    def as_json(self) -> dict[str, object]:
        """Give every field, ready for a JSON file."""
        return asdict(self)


def summarise(tally: Tally, seconds: float) -> Summary:
    """Turn counts into rates and quantiles.

    Args:
        tally: A finished load.
        seconds: How long requests were sent; in closed loop, until the last answer.
    """
    good = len(tally.latencies)
    requests = tally.sent + tally.unsent
    return Summary(
        seconds=seconds,
        requests=requests,
        offered_rate=requests / seconds,
        answered_rate=good / seconds,
        goodput=tally.in_deadline / seconds,
        late=good - tally.in_deadline,
        statuses={str(status): count for status, count in sorted(tally.statuses.items())},
        broken=tally.broken,
        unanswered=tally.unanswered,
        unsent=tally.unsent,
        latency_ms=_quantiles_ms(tally.latencies),
        refusal_ms=_quantiles_ms(tally.refusals),
        lag_ms=_quantiles_ms(tally.lags),
    )


def _quantiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Give quantiles that were really seen (no interpolation), mean and maximum; empty without values."""
    if not seconds:
        return {}
    values = np.asarray(seconds) * 1000
    cuts = np.quantile(values, list(_QUANTILES.values()), method="higher")
    found = dict(zip(_QUANTILES, map(float, cuts), strict=True))
    return {**found, "mean": float(values.mean()), "max": float(values.max())}
