"""Priority: p99 latency of few high-priority requests beside three times the peak of low-priority ones.

`python -m benchmarks priority`: `resnet18`; requests of priority 1 at a twentieth of the peak rate, alone
and beside three times the peak of priority 5. A running batch cannot be stopped, so the p99 is compared
with the p99 alone plus the mean time of one batch, which the service itself reports. 10% more is allowed.
"""

from __future__ import annotations

from dataclasses import asdict

from benchmarks.load import Reading, Stream, closed_loop, run_load, single_item_ms
from benchmarks.overload import PEAK_CLIENTS
from benchmarks.pairs import Estimate, interleaved
from benchmarks.report import Report, parse
from benchmarks.servers import Server, kotae
from benchmarks.workloads import reference_workload

_FEW, _MANY = 0.05, 3.0  # of the peak
_DEADLINE_ITEMS = 20


def main() -> None:
    """Measure and report."""
    run, _ = parse("priority", __doc__, rounds=6, seconds=12)
    workload = reference_workload("resnet18", small=run.quick)
    with kotae([workload], [run.cores.service]) as server, run.progress(run.rounds * 2) as tick:
        plain = workload.requests()
        closed_loop(server, plain, 4, run, min(1.0, run.seconds))
        deadline_ms = _DEADLINE_ITEMS * single_item_ms(server, plain, run)
        peak = closed_loop(server, plain, PEAK_CLIENTS, run).rate
        high = workload.requests(X_Priority=1, X_Timeout_Ms=f"{deadline_ms:.3f}")
        low = workload.requests(X_Priority=5, X_Timeout_Ms=f"{deadline_ms:.3f}")
        few = Stream(high, rate=max(_FEW * peak, 5.0), deadline_ms=deadline_ms)
        many = Stream(low, rate=_MANY * peak, deadline_ms=deadline_ms)
        batches: list[float] = []

        def flooded() -> Reading:
            before = _batch_seconds(server)
            reading = run_load(server, [few, many], run)
            after = _batch_seconds(server)
            batches.append((after[0] - before[0]) / max(1.0, after[1] - before[1]) * 1e3)
            return reading

        pairs = interleaved(run.rounds, lambda: run_load(server, [few], run), flooded, tick=tick)
    alone = [a.summaries[0].latency_ms.get("p99", deadline_ms) for a, _ in pairs]
    waits = [b.summaries[0].latency_ms.get("p99", deadline_ms) for _, b in pairs]
    over = [wait / (one + batch) for wait, one, batch in zip(waits, alone, batches, strict=True)]
    report = Report(run, "high priority under 3 x the peak of low", "ratio")
    report.add("p99 of the few over one batch and p99 alone", Estimate.of(over), 1.1, at_least=False)
    answered = [b.summaries[0].goodput / max(1e-9, b.summaries[0].offered_rate) for _, b in pairs]
    report.add("share of the few answered in time", Estimate.of(answered))
    report.add(
        "goodput of the many over the peak", Estimate.of(b.summaries[1].goodput / peak for _, b in pairs)
    )
    report.notes.append(
        f"p99 alone {Estimate.of(alone)} ms, beside the many {Estimate.of(waits)} ms, "
        f"a batch {Estimate.of(batches)} ms, deadline {deadline_ms:.3g} ms"
    )
    report.details["rounds"] = [[[asdict(one) for one in r.summaries] for r in pair] for pair in pairs]
    report.finish()


def _batch_seconds(server: Server) -> tuple[float, float]:
    """Return the total run time of batches in seconds, and their number."""
    counters = server.counters()
    stage = "kotae_stage_duration_seconds"
    seconds = sum(counters.total(f"{stage}_sum", stage=name) for name in ("batch", "infer"))
    return seconds, counters.total(f"{stage}_count", stage="infer")
