"""Overload of a model so small that a refusal costs a large share of an answer.

`python -m benchmarks load_shedding [--factors 1.2,2,5]`: if a refusal costs the share r of an answer's CPU
time, then at k times the peak no server can answer more than (1 - kr) / (1 - r) of its peak, because g
answers and k - g refusals fill the core when g + (k - g)r = 1. r is measured in each round, from the
server's CPU time at the peak and at the largest factor.
"""

from __future__ import annotations

from benchmarks.overload import Overload, add_options, describe, late_share, overload_rounds
from benchmarks.pairs import Estimate
from benchmarks.report import Report, parse
from benchmarks.servers import kotae
from benchmarks.workloads import reference_workload


def main() -> None:
    """Measure and report."""
    run, options = parse("load_shedding", __doc__, rounds=6, seconds=3, add=add_options)
    workload = reference_workload("tiny", small=run.quick)
    with (
        kotae([workload], [run.cores.service]) as server,
        run.progress(run.rounds * (1 + len(options.factors))) as tick,
    ):
        rounds, deadline_ms = overload_rounds(server, workload, run, options.factors, tick)
    report = Report(run, "overload of the tiny model", "ratio")
    costs = [refusal_cost(one) for one in rounds]
    report.add("CPU of a refusal over that of an answer", Estimate.of(costs))
    for factor in options.factors:
        shares = [one.offered[factor].goodput / one.peak.rate for one in rounds]
        report.add(f"at {factor:g}x: goodput over peak", Estimate.of(shares))
        bounds = [possible(factor, cost) for cost in costs]
        if min(bounds) > 0:
            over = [share / bound for share, bound in zip(shares, bounds, strict=True)]
            report.add(f"at {factor:g}x: goodput over what is possible", Estimate.of(over), 0.9)
        else:
            report.notes.append(
                f"at {factor:g}x, refusing alone takes more than the core: nothing is possible"
            )
        late = Estimate.of(late_share(one.offered[factor]) for one in rounds)
        report.add(f"at {factor:g}x: late of admitted", late, 0.005, at_least=False)
    report.notes.append(f"deadline {deadline_ms:.3g} ms")
    report.details["rounds"] = [describe(one) for one in rounds]
    report.finish()


def refusal_cost(one: Overload) -> float:
    """Measure r: the CPU time of the largest load less that of its answers, over the number of refusals.

    Returns:
        At least 0; 0 also if nothing was refused.
    """
    service = one.peak.cpu_seconds / max(1, one.peak.only.ok)
    most = one.offered[max(one.offered)]
    if not most.only.refused:
        return 0.0
    rest = most.cpu_seconds - most.only.ok * service
    return max(0.0, rest / most.only.refused / service)


def possible(factor: float, cost: float) -> float:
    """Return the share of the peak rate that a server can answer at best.

    Args:
        factor: k, offered rate over peak.
        cost: r, CPU time of a refusal over that of an answer.
    """
    if factor * cost >= 1 or cost >= 1:
        return 0.0
    return min(1.0, (1 - factor * cost) / (1 - cost)) if factor >= 1 else factor
