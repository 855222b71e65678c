"""Check dashboards and rules against a real Prometheus, and draw the dashboards.

`python -m benchmarks observability [--seconds 240] [--replicas 2] [--pictures docs/dashboards]` starts the
service with the shipped models and two test models, one of which misbehaves on purpose, and a Prometheus
(Debian package `prometheus`) with the chart's rules. It runs a bounded load, then evaluates every query of
every panel and rule. The exit code is 1 if a query returns no data without a known reason.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.observability.load import Load
from benchmarks.observability.processes import (
    SCRAPE_SECONDS,
    make_models,
    observed_workloads,
    prometheus,
    services,
)
from benchmarks.observability.prometheus_api import Prometheus, exception_for, without_data
from benchmarks.observability.queries import DASHBOARDS, panel_queries, read_dashboard, rule_queries

REPOSITORY = Path(__file__).parents[2]


@contextmanager
def observed_run(
    folder: Path, *, seconds: float, replicas: int, shipped: Path | None
) -> Iterator[tuple[Prometheus, Counter[str]]]:
    """Put load on the service while Prometheus scrapes it.

    Yields:
        The running Prometheus with the time span of the load, and the number of answers by status.
    """
    models = folder / "models"
    make_models(models, shipped)
    workloads = observed_workloads(models)
    with services(models, folder, replicas) as ports, prometheus(ports, folder) as server:
        time.sleep(2 * SCRAPE_SECONDS)
        begin = time.time()
        load = Load(ports, workloads, seconds)
        load.run()
        end = time.time()
        time.sleep(SCRAPE_SECONDS)
        statuses = Counter({str(status): count for status, count in load.observed.statuses.items()})
        yield Prometheus(server, begin, end), statuses


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks observability")
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--pictures", type=Path, default=REPOSITORY / "docs" / "dashboards")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        observed_run(
            Path(folder), seconds=options.seconds, replicas=options.replicas, shipped=REPOSITORY / "models"
        ) as (server, statuses),
    ):
        print("answers:", ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items())))
        problems = [f"rule without success: {rule}" for rule in server.broken_rules()]
        for query, part in without_data(server):
            if reason := exception_for(part):
                print(f"no data, as expected: {query.owner}: {part} ({reason})")
            else:
                problems.append(f"no data: {query.kind} {query.owner}: {part}")
        print(f"{len([*panel_queries()])} panel queries and {len([*rule_queries()])} rules evaluated")
        from benchmarks.observability.drawing import draw  # slow to load

        for path in sorted(DASHBOARDS.glob("*.json")):
            draw(read_dashboard(path), server, options.pictures / f"{path.stem}.png")
    print("\n".join(problems) or "every query returned data")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
