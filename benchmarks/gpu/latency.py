"""One item at a time: plain `run`, bound inputs and outputs, and a CUDA graph, in turn.

A graph's latency is the time of a run with the answer in hand: on the device where it is bound there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from functools import partial
from typing import Literal

import numpy as np

from benchmarks.gpu.ceilings import largest_difference
from benchmarks.gpu.networks import PRECISIONS, Network
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.results import Results
from benchmarks.gpu.ways import Bare, Unavailable, Way

GRAPH_GOAL = 1.8  # p50 of plain over that of a CUDA graph, for one of the models


def measure_latency(plan: Plan, networks: Iterable[Network], results: Results) -> None:
    """Measure networks on the device, in both precisions."""
    for network, precision in itertools.product(networks, PRECISIONS):
        part = f"Latency, {network.name}"
        kind: Literal["cpu", "cuda"] = "cuda" if plan.device == "cuda" else "cpu"
        plain = Way(kind, precision, bound=False)
        found: list[tuple[Way, Bare]] = []
        for way in (plain, Way(kind, precision), Way(kind, precision, graph=True)):
            try:
                found.append((way, Bare(network.paths[precision], way, network.batch(1))))
            except Unavailable as reason:
                results.skip(part, str(way), str(reason))
        rounds = plan.measure(*(partial(bare.latencies_ms, plan.seconds) for _, bare in found))
        for number, (way, _) in enumerate(found):
            times = [readings[number] for readings in rounds]
            note = f"answers within {largest_difference(network, way):.2g} of the CPU's fp32"
            results.add(part, f"{way}: p50", map(np.median, times), "ms", note=note)
            results.add(part, f"{way}: p99", (np.quantile(t, 0.99) for t in times), "ms")
            if way != plain:
                ratios = [float(np.median(r[0]) / np.median(r[number])) for r in rounds]
                goal = GRAPH_GOAL if way.graph else None
                results.add(part, f"p50 of plain over {way}", ratios, "times", goal=goal)
