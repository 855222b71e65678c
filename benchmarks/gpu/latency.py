"""One item at a time: plain `run`, bound inputs and outputs, a CUDA graph and the service's session, in turn.

A latency is the time of a run until its outputs are in memory: the host's for plain runs and the service, the
device's where outputs are bound there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from benchmarks.gpu.ceilings import difference, largest_difference
from benchmarks.gpu.networks import PRECISIONS, TOKENS, Network
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.results import Results
from benchmarks.gpu.ways import Bare, Unavailable, Way, latencies_ms
from service.engine.cuda.gpu_session import GpuSession
from service.engine.cuda.providers import GpuOptions
from service.engine.devices import open_session
from service.engine.runtime.device import Device
from service.engine.runtime.shape_buckets import Buckets
from service.errors import KotaeError

GRAPH_GOAL = 1.8  # p50 of plain over that of a CUDA graph, for one of the models
_WARM_UPS = 3

Kind = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class Measured:
    """Something that runs one item.

    Attributes:
        error: Largest difference of its answers from those of plain fp32 on the CPU.
        goal: Wanted ratio of the plain p50 to its own.
    """

    run: Callable[[], object]
    error: float
    goal: float | None = None


def measure_latency(plan: Plan, networks: Iterable[Network], results: Results) -> None:
    """Measure networks on the device, in both precisions."""
    kind: Kind = "cuda" if plan.device == "cuda" else "cpu"
    for network, precision in itertools.product(networks, PRECISIONS):
        part = f"Latency, {network.name}"
        found: dict[str, Measured] = {}
        for name, prepare in _candidates(network, kind, precision).items():
            try:
                found[name] = prepare()
            except (Unavailable, KotaeError) as reason:
                results.skip(part, name, str(reason))
        rounds = plan.measure(*(partial(latencies_ms, one.run, plan.seconds) for one in found.values()))
        for number, (name, one) in enumerate(found.items()):
            times = [readings[number] for readings in rounds]
            note = f"answers within {one.error:.2g} of the CPU's fp32"
            results.add(part, f"{name}: p50", map(np.median, times), "ms", note=note)
            results.add(part, f"{name}: p99", (np.quantile(t, 0.99) for t in times), "ms")
            if number:
                ratios = [float(np.median(r[0]) / np.median(r[number])) for r in rounds]
                results.add(part, f"p50 of plain over {name}", ratios, "times", goal=one.goal)


def _candidates(network: Network, kind: Kind, precision: str) -> Mapping[str, Callable[[], Measured]]:
    """Return what is compared, plain first."""
    plain, bound = (Way(kind, precision, bound=bound) for bound in (False, True))
    graph = Way(kind, precision, graph=True)
    ways = {str(way): partial(_bare, network, way) for way in (plain, bound, graph)}
    return {**ways, f"the service's session, {precision}": partial(_served, network, kind, precision)}


def _bare(network: Network, way: Way) -> Measured:
    bare = Bare(network.paths[way.precision], way, network.batch(1))
    return Measured(bare.run, largest_difference(network, way), GRAPH_GOAL if way.graph else None)


def _served(network: Network, kind: Kind, precision: str) -> Measured:
    """Prepare the service's session: on a GPU bound, and captured if the graph's shapes are fixed."""
    inputs = network.batch(1)
    session = open_session(network.paths[precision], Device(kind), gpu=GpuOptions(cuda_graph=kind == "cuda"))
    if isinstance(session, GpuSession):
        session.bind(Buckets(1, TOKENS))
    run = partial(session.run, inputs)
    for _ in range(_WARM_UPS):
        run()
    return Measured(run, difference(network, inputs, list(run().values())))
