"""The load on one GPU: `python -m benchmarks.gpu [--device cuda] [--minutes 9] [--output FOLDER]`.

Nothing is downloaded: ResNet-50, a text encoder of MiniLM's size and a keyword spotter are built with random
weights, in fp32 and fp16. The benchmark compares the device alone, the engine and HTTP, and the ways to run a
graph: CPU, CUDA, CUDA graph, TensorRT. What this machine cannot do is skipped, with the reason.

`gpu.md` and `gpu.json` are written again after every figure, so a run that is aborted keeps its figures.
Pictures are drawn at the end. Two things that are compared are measured in turn (A B, B A, …).
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.gpu.answers import check_serving, compare_answers
from benchmarks.gpu.ceilings import measure_tensorrt, measure_ways
from benchmarks.gpu.latency import measure_latency
from benchmarks.gpu.model_folder import write_model
from benchmarks.gpu.networks import build_networks
from benchmarks.gpu.plan import OutOfTime, Plan, divide, usable_cores, worker_counts
from benchmarks.gpu.results import Results
from benchmarks.gpu.serving import measure_engine, measure_http
from benchmarks.gpu.stage import Stage
from benchmarks.machine import REPOSITORY
from service.engine.devices import cuda_problem

# The most useful first: the time may be too short for all.
PARTS = (
    "answers",
    "serving",
    "latency",
    "device",
    "engine",
    "http",
    "tensorrt",
)


def main() -> None:
    """Measure and report; exit with status 1 if a part failed."""
    options = _parse()
    if options.device == "cuda" and (problem := cuda_problem()):
        raise SystemExit(f"--device cuda: {problem}; --device cpu proves that the command works")
    logging.basicConfig(level=logging.WARNING)
    plan = _plan(options)
    setting = {
        "device": plan.device,
        "network": "ResNet-50, over HTTP in fp16, except for latency and the shipped models",
        "cores": f"{len(plan.service)} of the service, {len(plan.load)} of the load",
        "rounds": f"{plan.rounds} of {plan.seconds:g} s each, interleaved",
        "quick": "yes: the networks are next to nothing and the figures mean nothing" if plan.quick else "no",
    }
    results = Results(options.output, setting)
    with tempfile.TemporaryDirectory() as folder:
        stage = _stage(plan, results, Path(folder))
        failed = [part for part in options.parts if not _run(part, _parts(stage)[part], results)]
    for path in results.draw():
        print(path)
    print(options.output / "gpu.md")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def _stage(plan: Plan, results: Results, folder: Path) -> Stage:
    networks = build_networks(folder, small=plan.quick)
    workload = write_model(folder, networks["resnet50"], small=plan.quick)
    return Stage(plan, results, folder, networks, workload)


def _parts(stage: Stage) -> Mapping[str, Callable[[], None]]:
    plan, results, networks = stage.plan, stage.results, stage.networks
    models = REPOSITORY / "models"
    return {
        "answers": lambda: compare_answers(models, plan.device, results),
        "serving": lambda: check_serving(models, stage.device, results),
        "latency": lambda: measure_latency(plan, (networks["minilm"], networks["keywords"]), results),
        "device": lambda: measure_ways(stage),
        "engine": lambda: measure_engine(stage),
        "http": lambda: measure_http(stage),
        "tensorrt": lambda: measure_tensorrt(stage),
    }


def _run(part: str, measure: Callable[[], None], results: Results) -> bool:
    """Measure a part, and report if it fails or runs out of time.

    Returns:
        Whether it did not fail.
    """
    began = time.monotonic()
    try:
        measure()
    except OutOfTime:
        results.skip("Left out", part, "the time was over")
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        results.skip("Left out", part, f"failed: {error}")
        return False
    print(f"({part}: {time.monotonic() - began:.0f} s)", flush=True)
    return True


def _plan(options: argparse.Namespace) -> Plan:
    quick = options.quick
    service, load = divide(usable_cores())
    workers = options.http_workers or ((0, 1) if quick else worker_counts(len(service)))
    return Plan(
        device=options.device,
        quick=quick,
        rounds=1 if quick else options.rounds,
        seconds=0.2 if quick else options.seconds,
        workers=tuple(workers),
        service=service,
        load=load,
        ends=time.monotonic() + 60 * options.minutes,
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--device", choices=("cuda", "cpu"), default="cuda", help="cpu only proves that the command works")
    add(
        "--minutes", type=float, default=9, help="no measurement starts after this time (default %(default)s)"
    )
    add("--rounds", type=int, default=4, help="of a comparison (default %(default)s)")
    add("--seconds", type=float, default=1.5, help="of a measurement (default %(default)s)")
    add("--quick", action="store_true", help="only test that everything works")
    add("--http-workers", type=_numbers, help="to try (default: half the service's cores, 0, all, a quarter)")
    add("--parts", type=_names, default=PARTS, help=f"of {', '.join(PARTS)} (default all)")
    add("--output", type=Path, default=REPOSITORY / "benchmarks" / "results", help="folder of the results")
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(PARTS):
        raise argparse.ArgumentTypeError(f"no such part: {', '.join(sorted(unknown))}")
    return names


if __name__ == "__main__":
    main()
