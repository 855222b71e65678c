"""Static int8 quantisation over fp32: CPU time of the reference networks on one thread.

`python -m benchmarks int8`: `resnet18` and `minilm` with random weights, quantised as `kotae-train
quantize` does. This shows speed only; the effect on accuracy is in the card of each quantised model.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.pairs import Estimate, interleaved, ratios
from benchmarks.reference_models import GRAPH_FILE, reference_folder
from benchmarks.report import Report, parse
from service.engine.runtime.session import Device, Session
from training.core.int8 import Batch, quantize_graph

_LENGTHS = (8, 16, 32, 64, 128)  # tokens of the texts for calibration
_IMAGES = 8


def image_batch(items: int, side: int, seed: int) -> Batch:
    """Make a batch of noise."""
    shape = (items, side, side, 3)
    return {"image": np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)}


def token_batch(items: int, length: int, vocabulary: int) -> Batch:
    """Make a batch of random tokens, without padding."""
    ids = np.random.default_rng(length).integers(4, vocabulary, (items, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def cpu_seconds(session: Session, batch: Batch, seconds: float) -> float:
    """Measure the CPU time of one run."""
    started, runs = time.thread_time(), 0
    while runs == 0 or time.thread_time() - started < seconds:
        session.run(batch)
        runs += 1
    return (time.thread_time() - started) / runs


def main() -> None:
    """Measure and report."""
    run, _ = parse("int8", __doc__, rounds=15, seconds=0.2)
    os.sched_setaffinity(0, {run.cores.service})
    models = reference_folder(small=run.quick) / "models"
    side, vocabulary = (64, 2000) if run.quick else (224, 30522)
    lengths = [n for n in _LENGTHS if n <= 64] if run.quick else _LENGTHS
    images = partial(image_batch, side=side, seed=0)
    jobs: dict[str, tuple[list[Batch], dict[str, Batch], float]] = {
        "resnet18": (
            [image_batch(1, side, seed) for seed in range(1, _IMAGES + 1)],
            {f"{items} pictures": images(items) for items in (1, 4)},
            2.8,
        ),
        "minilm": (
            [token_batch(1, length, vocabulary) for length in lengths],
            {
                f"{items} x {length} tokens": token_batch(items, length, vocabulary)
                for items, length in ((1, 16), (1, 64), (8, 64))
            },
            1.8,
        ),
    }
    report = Report(run, "static int8, CPU time", "times as fast as fp32")
    steps = sum(len(timed) for _, timed, _ in jobs.values()) * run.rounds * 2
    with tempfile.TemporaryDirectory() as folder, run.progress(steps) as tick:
        for name, (typical, timed, goal) in jobs.items():
            plain = models / name / "1" / GRAPH_FILE
            small = Path(folder) / f"{name}.onnx"
            quantize_graph(plain, small, typical)
            sessions = [Session(path, Device("cpu")) for path in (plain, small)]
            for what, batch in timed.items():
                measures: list[Callable[[], float]] = [
                    partial(cpu_seconds, session, batch, run.seconds) for session in sessions
                ]
                rows = interleaved(run.rounds, *measures, tick=tick)
                report.add(f"{name}, {what}", ratios(rows, over=1, of=0), goal)
                report.details[f"{name}, {what}"] = {
                    precision: Estimate.of(row[i] * 1e3 for row in rows).as_json()
                    for i, precision in enumerate(("fp32_ms", "int8_ms"))
                }
    report.finish()
