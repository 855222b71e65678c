"""Load from several cores at once: one process of `kotae bench`'s generator on each."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.load import Stream, require_all_ok, start_load


def closed_loops(
    port: int, requests: Sequence[bytes], clients: int, seconds: float, cores: Sequence[int]
) -> float:
    """Run a closed-loop load.

    Args:
        port: On 127.0.0.1.
        requests: Divided between the cores, so that no two cores send the same.
        clients: Altogether.
        seconds: Duration.
        cores: Where the load runs, a process on each.

    Returns:
        Answers a second.

    Raises:
        SystemExit: A request was not answered with status 200.
    """
    each = max(1, clients // len(cores))
    shares = [requests[k :: len(cores)] or requests for k in range(len(cores))]
    running = [
        start_load(port, [Stream(share, clients=each)], seconds, core=core, seed=core + 1)
        for share, core in zip(shares, cores, strict=True)
    ]
    summaries = [load.result()[0] for load in running]
    for summary in summaries:
        require_all_ok(summary, "the service")
    return sum(summary.answered_rate for summary in summaries)
