"""Serving efficiency: items a second over HTTP at saturation, over bare ONNX Runtime on the same core.

`python -m benchmarks efficiency [--clients 32]`: one picture a request. Bare ONNX Runtime decodes and runs
the same pictures from memory, at its fastest batch size. `small` takes about 2 ms a picture, `resnet18`
about 17.
"""

from __future__ import annotations

import argparse

from benchmarks.load import closed_loop
from benchmarks.onnxruntime_baseline import BareEngine, Batches, bare_engine
from benchmarks.pairs import interleaved, ratios
from benchmarks.report import Report, parse
from benchmarks.servers import kotae
from benchmarks.workloads import reference_workload

_GOALS = {"small": 0.85, "resnet18": 0.95}
_SIZES = (1, 2, 4, 8, 16)


def main() -> None:
    """Measure and report."""
    run, options = parse("efficiency", __doc__, rounds=6, seconds=4, add=_add_options)
    report = Report(run, "serving efficiency", "items a second over the bare engine's")
    models = {"small": 0.85} if run.quick else _GOALS
    with run.progress(len(models) * run.rounds * 2) as tick:
        for name, goal in models.items():
            workload = reference_workload(name, small=run.quick)
            requests = workload.requests()
            core = run.cores.service
            with bare_engine(workload, core) as bare, kotae([workload], [core]) as server:
                how = fastest(bare, run.seconds / 4)
                closed_loop(server, requests, options.clients, run, min(1.0, run.seconds))
                pairs = interleaved(
                    run.rounds,
                    lambda: closed_loop(server, requests, options.clients, run).rate,  # noqa: B023
                    lambda: bare.measure(how, run.seconds)["rate"],  # noqa: B023
                    tick=tick,
                )
            alone_ms = 1000 / max(rate for _, rate in pairs)
            report.add(f"{name} ({alone_ms:.3g} ms an item)", ratios(pairs), goal)
            report.details[name] = {"bare batch": how.most, "rates": pairs}
    report.finish()


def fastest(bare: BareEngine, seconds: float) -> Batches:
    """Return the batch size at which bare ONNX Runtime is fastest."""
    return bare.best([Batches("count", size) for size in _SIZES], seconds)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=int, default=32)
