"""Two models on two CPUs of a host of 32: Kotae over a textbook service that believes it has 32.

`python -m benchmarks.quota [--believed 32]`: `resnet18` and `small` under load at once, 8 clients each.
ONNX Runtime sizes its pools by the host's cores and looks at no quota, so on such a host `B0` gets this
many threads a session; here they are given by option and every thread is held on the two cores. Kotae
chooses by itself. What is not emulated is the throttling of a real quota, which stops all threads at once
when they have used it up.
"""

from __future__ import annotations

import argparse
from functools import partial

from benchmarks.openloop import Stream
from benchmarks.pairs import Estimate, interleaved
from benchmarks.readings import put_load
from benchmarks.report import Report, parse
from benchmarks.servers import kotae, textbook
from benchmarks.workloads import reference_workload


def main() -> None:
    """Measure and report."""
    run, options = parse("quota", __doc__, rounds=6, seconds=4, add=_add_options)
    names = ("tiny", "small") if run.quick else ("resnet18", "small")
    models = [reference_workload(name, small=run.quick) for name in names]
    clients = 1 if run.quick else options.clients
    cores = sorted({run.cores.service, run.cores.load})
    ours_load = [Stream(model.requests(), clients=clients) for model in models]
    theirs_load = [Stream(model.textbook_requests(), clients=clients) for model in models]
    believed = 2 if run.quick else options.believed
    with (
        kotae(models, cores) as ours,
        textbook(models, cores, threads=believed) as theirs,
        run.progress(run.rounds * 2) as tick,
    ):
        for server, load in ((ours, ours_load), (theirs, theirs_load)):
            put_load(server, load, run, min(1.0, run.seconds))
        pairs = interleaved(
            run.rounds,
            partial(put_load, ours, ours_load, run),
            partial(put_load, theirs, theirs_load, run),
            tick=tick,
        )
    report = Report(run, f"two models on two CPUs, B0 believes {believed}", "ratio to B0")
    for number, name in enumerate(names):
        a = [row[0].outcomes[number] for row in pairs]
        b = [row[1].outcomes[number] for row in pairs]
        rates = Estimate.of(x.rate / y.rate for x, y in zip(a, b, strict=True))
        report.add(f"{name}: requests a second", rates, 2.0)
        waits = Estimate.of(x.latency_ms["p99"] / y.latency_ms["p99"] for x, y in zip(a, b, strict=True))
        report.add(f"{name}: p99", waits, 0.5, at_least=False)
    report.details["requests a second"] = [
        [[outcome.rate for outcome in reading.outcomes] for reading in pair] for pair in pairs
    ]
    report.finish()


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--believed", type=int, default=32)
    parser.add_argument("--clients", type=int, default=8)


if __name__ == "__main__":
    main()
