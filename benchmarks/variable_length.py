"""Texts of variable length with 64 clients, against ideal batches, no batches and a fixed window.

`python -m benchmarks variable_length [--clients 64]`: `minilm` with log-normal lengths from 8 to 256
tokens. The ideal is bare ONNX Runtime that knows all texts in advance, sorts them by length and fills
batches up to a padded cost. "One by one" is the same without batches. Neither tokenises or speaks HTTP. The
fixed-window baseline batches up to 16 texts within 5 ms; the FastAPI baseline does not batch.
"""

from __future__ import annotations

import argparse

from benchmarks.load import closed_loop
from benchmarks.onnxruntime_baseline import ONE_BY_ONE, Batches, bare_engine
from benchmarks.pairs import interleaved, ratios
from benchmarks.report import Report, parse
from benchmarks.servers import fastapi_baseline, kotae
from benchmarks.workloads import reference_workload

_BUDGETS = (256, 512, 1024, 2048)  # padded tokens


def main() -> None:
    """Measure and report."""
    run, options = parse("variable_length", __doc__, rounds=6, seconds=4, add=_add_options)
    clients = 8 if run.quick else options.clients
    workload = reference_workload("minilm", small=run.quick)
    ours, theirs = workload.requests(), workload.baseline_requests()
    cores = (run.cores.service,)
    with (
        bare_engine(workload, run.cores.service) as bare,
        kotae([workload], cores) as server,
        fastapi_baseline([workload], cores, module="benchmarks.fixed_window_baseline") as windowed,
        fastapi_baseline([workload], cores) as plain,
        run.progress(run.rounds * 5) as tick,
    ):
        ideal = bare.best([Batches("cost", most) for most in _BUDGETS], 0.1, decode=False)
        for target, requests in ((server, ours), (windowed, theirs), (plain, theirs)):
            closed_loop(target, requests, clients, run, min(1.0, run.seconds))
        readings = interleaved(
            run.rounds,
            lambda: closed_loop(server, ours, clients, run).rate,
            lambda: bare.measure(ideal, run.seconds, decode=False)["rate"],
            lambda: bare.measure(ONE_BY_ONE, run.seconds, decode=False)["rate"],
            lambda: closed_loop(windowed, theirs, clients, run).rate,
            lambda: closed_loop(plain, theirs, clients, run).rate,
            tick=tick,
        )
        counters = server.counters()
    report = Report(run, f"texts of mixed length, {clients} clients", "texts a second over …")
    report.add("over the length-sorted ideal", ratios(readings, over=1), 0.85)
    report.add("over one by one, bare", ratios(readings, over=2), 1.3)
    report.add("over the fixed window", ratios(readings, over=3), 2.5)
    report.add("over the FastAPI baseline", ratios(readings, over=4), 0.95)
    batches = counters.total("kotae_batch_padding_ratio_count")
    padding = counters.total("kotae_batch_padding_ratio_sum") / max(1.0, batches)
    items = counters.total("kotae_batch_items_sum") / max(1.0, batches)
    report.notes.append(f"mean batch {items:.3g} texts, padded to {padding:.3g} of their cost")
    report.details["texts a second: kotae, ideal, one by one, fixed window, the FastAPI baseline"] = readings
    report.details["ideal batch, padded tokens"] = ideal.most
    report.finish()


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=int, default=64)
