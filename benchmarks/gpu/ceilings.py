"""The device alone: items per second of every way to run ResNet-50, each at its best batch size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.networks import PRECISIONS, Arrays, Network
from benchmarks.gpu.stage import BATCHES, Stage
from benchmarks.gpu.ways import Bare, Unavailable, Way

PART = "Device alone"
_TENSORRT_BATCH = BATCHES[-2]
_TENSORRT_SECONDS = 90.0  # an engine may take this long to build


def measure_ways(stage: Stage) -> None:
    """Measure the ways that need no engine to be built, in turn."""
    plan, results = stage.plan, stage.results
    ways = [Way("cpu", "fp32"), *(Way("cuda", precision) for precision in PRECISIONS)]
    ways += [Way("cuda", precision, graph=True) for precision in PRECISIONS]
    found: list[tuple[Way, Bare]] = []
    for way in ways:
        try:
            found.append((way, stage.best(way)))
        except Unavailable as reason:
            results.skip(PART, str(way), str(reason))
    rounds = plan.measure(*(partial(bare.rate, plan.seconds) for _, bare in found))
    for (way, bare), rates in zip(found, zip(*rounds, strict=True), strict=True):
        results.add(PART, str(way), rates, "items/s", note=f"batches of {bare.items}")


def measure_tensorrt(stage: Stage) -> None:
    """Measure TensorRT and CUDA at one batch size, in turn; the engine is built first."""
    plan, results, network = stage.plan, stage.results, stage.resnet
    way, other = Way("tensorrt", "fp16"), Way("cuda", "fp16")
    batch = network.batch(_TENSORRT_BATCH)
    try:
        if way.problem is None:
            plan.require(_TENSORRT_SECONDS)
        ours = Bare(network.paths["fp32"], way, batch)
        cuda = Bare(network.paths["fp16"], other, batch)
    except Unavailable as reason:
        results.skip(PART, str(way), str(reason))
        return
    pairs = plan.measure(partial(ours.rate, plan.seconds), partial(cuda.rate, plan.seconds))
    note = f"batches of {_TENSORRT_BATCH}; answers within {largest_difference(network, way):.2g} of the CPU's"
    results.add(PART, str(way), [a for a, _ in pairs], "items/s", note=note)
    results.add(PART, f"{way} over {other}", [a / b for a, b in pairs], "times")


def largest_difference(network: Network, way: Way) -> float:
    """Return the largest absolute difference of a way's outputs from those of fp32 on the CPU."""
    inputs = network.batch(4)
    path = network.paths["fp32" if way.provider == "tensorrt" else way.precision]
    return difference(network, inputs, Bare(path, way, inputs).outputs())


def difference(network: Network, inputs: Arrays, given: Sequence[NDArray[Any]]) -> float:
    """Return the largest absolute difference of outputs from those of fp32 on the CPU."""
    wanted = Bare(network.paths["fp32"], Way("cpu", "fp32", bound=False), inputs).outputs()
    return max(float(np.abs(a - b).max()) for a, b in zip(wanted, given, strict=True))
