"""A client of Prometheus's HTTP API, and a check that every query returns data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.observability.queries import Query, panel_queries, rule_queries, selectors, substitute

# Windows of four scrapes, the least that Grafana's $__rate_interval gives.
RATE_INTERVAL = "20s"

# Metrics without data in a correct run, and why.
EXCEPTIONS = {
    "kotae_memory_limit_bytes": "only where the process has a memory limit",
    "kotae_device_memory_bytes": "only where there is a GPU",
    "kotae_device_utilization_ratio": "only where there is a GPU",
    "kotae_device_power_watts": "only where there is a GPU",
    "kotae_device_temperature_celsius": "only where there is a GPU",
    "kotae_device_memory_errors_total": "only where there is a GPU",
}


@dataclass(frozen=True, slots=True)
class Series:
    """A time series: labels, times in seconds and values."""

    labels: dict[str, str]
    seconds: list[float]
    values: list[float]


@dataclass(frozen=True)
class Prometheus:
    """A server and the time span of a run.

    Attributes:
        begin: First moment looked at, in Unix seconds.
        end: Last moment looked at.
    """

    address: str
    begin: float
    end: float
    step_seconds: float = 2.0

    def over_time(self, expression: str) -> list[Series]:
        """Evaluate at every step of the run."""
        span = {"start": self.begin, "end": self.end, "step": self.step_seconds}
        return [
            _series(entry["metric"], entry["values"]) for entry in self._ask("query_range", expression, span)
        ]

    def at_end(self, expression: str) -> list[Series]:
        """Evaluate at the end of the run."""
        found = self._ask("query", expression, {"time": self.end})
        return [_series(entry["metric"], [entry["value"]]) for entry in found]

    def broken_rules(self) -> list[str]:
        """Return the rules that Prometheus failed to evaluate, with the reasons."""
        answer = httpx.get(f"{self.address}/api/v1/rules", timeout=30).raise_for_status().json()
        rules = [rule for group in answer["data"]["groups"] for rule in group["rules"]]
        return [f"{rule['name']}: {rule.get('lastError', '')}" for rule in rules if rule["health"] != "ok"]

    def _ask(self, how: str, expression: str, more: dict[str, float]) -> list[dict[str, Any]]:
        response = httpx.post(f"{self.address}/api/v1/{how}", data={"query": expression, **more}, timeout=60)
        answer = response.json()
        if answer["status"] != "success":
            raise ValueError(f"{expression}: {answer['error']}")
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result


def without_data(server: Prometheus) -> Iterator[tuple[Query, str]]:
    """Yield the queries without data.

    A panel and a recording rule must return a number. An alert that does not fire returns nothing, so
    there each of its selectors must.

    Yields:
        The query, and the part without data.
    """
    for query in (*panel_queries(), *rule_queries()):
        whole = substitute(query.expression, RATE_INTERVAL)
        parts = (
            selectors(whole) if query.kind == "alert" and not has_number(server.at_end(whole)) else [whole]
        )
        for part in parts:
            if not has_number(server.over_time(part)):
                yield query, part


def has_number(series: list[Series]) -> bool:
    """Return whether any value is not NaN."""
    return any(not math.isnan(value) for line in series for value in line.values)


def exception_for(part: str) -> str | None:
    """Return the reason for which an expression may have no data, or None."""
    names = (selector.partition("{")[0] for selector in selectors(part))
    return next((EXCEPTIONS[name] for name in names if name in EXCEPTIONS), None)


def _series(labels: dict[str, str], points: list[tuple[float, str]]) -> Series:
    return Series(labels, [float(at) for at, _ in points], [float(value) for _, value in points])
