"""Texts of mixed length, 64 clients: Kotae over the ideal, over one by one, and over a fixed window.

`python -m benchmarks.mixed_text [--clients 64]`: log-normal lengths, 8 to 256 tokens, `minilm`. The ideal
is bare ONNX Runtime that knows all texts beforehand, sorts them by length and fills batches up to a padded
cost; one by one is the same without batches; neither tokenises, speaks HTTP nor waits. `B1` pads to the
longest of what came within 5 ms, up to 16; `B0` does not batch.
"""

from __future__ import annotations

import argparse

from benchmarks.bare import ONE_BY_ONE, Batches, bare_engine
from benchmarks.pairs import interleaved, ratios
from benchmarks.readings import closed_loop
from benchmarks.report import Report, parse
from benchmarks.servers import kotae, textbook
from benchmarks.workloads import reference_workload

_BUDGETS = (256, 512, 1024, 2048)  # padded tokens


def main() -> None:
    """Measure and report."""
    run, options = parse("mixed_text", __doc__, rounds=6, seconds=4, add=_add_options)
    clients = 8 if run.quick else options.clients
    workload = reference_workload("minilm", small=run.quick)
    ours, theirs = workload.requests(), workload.textbook_requests()
    cores = (run.cores.service,)
    with (
        bare_engine(workload, run.cores.service) as bare,
        kotae([workload], cores) as server,
        textbook([workload], cores, module="benchmarks.windowed") as windowed,
        textbook([workload], cores) as plain,
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
    report.add("over the fixed window (B1)", ratios(readings, over=3), 2.5)
    report.add("over the textbook endpoint (B0)", ratios(readings, over=4), 0.95)
    batches = counters.total("kotae_batch_padding_ratio_count")
    padding = counters.total("kotae_batch_padding_ratio_sum") / max(1.0, batches)
    items = counters.total("kotae_batch_items_sum") / max(1.0, batches)
    report.notes.append(f"mean batch {items:.3g} texts, padded to {padding:.3g} of their cost")
    report.details["texts a second: kotae, ideal, one by one, B1, B0"] = readings
    report.details["ideal batch, padded tokens"] = ideal.most
    report.finish()


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=int, default=64)


if __name__ == "__main__":
    main()
