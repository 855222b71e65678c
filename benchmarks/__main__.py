"""Run benchmarks: `python -m benchmarks [NAME…] [--quick] [--rounds N] [--seconds S] [--output FOLDER]`.

Without a name the five main ones run; `all` runs every one that needs neither a GPU nor Prometheus. Options
are passed on. `python -m benchmarks NAME --help` lists the options of a benchmark.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from importlib import import_module

from benchmarks.machine import REPOSITORY

MAIN = {
    "throughput": "requests a second, p50 and CPU time against the FastAPI baseline",
    "efficiency": "items a second over HTTP against bare ONNX Runtime",
    "variable_length": "texts of variable length against ideal batches and a fixed window",
    "overload": "goodput and late answers at 1.2, 2 and 5 times the peak rate",
    "startup": "time from start to ready",
}
REST = {
    "load_shedding": "overload of a model whose refusals cost much of an answer",
    "deadlines": "mixed deadlines and costs at twice the capacity",
    "fairness": "two models in one overloaded process",
    "priority": "p99 of few high-priority requests beside many low-priority ones",
    "probes": "latency of health probes during an overload",
    "cpu_quota": "two models on two CPUs of a larger host",
    "image_decoding": "CPU time from a JPEG file to the graph's input",
    "int8": "CPU time of int8 graphs against fp32",
    "ipc": "CPU time of a transfer between HTTP worker and engine",
    "http_workers": "requests a second with several HTTP processes",
    "soak": "five minutes of mixed traffic; answers, counters and memory are checked",
}
SPECIAL = {
    "observability": "every query of dashboards and rules on a real Prometheus",
    "gpu": "engine, HTTP and latency on an NVIDIA GPU",
}


def main() -> None:
    """Run the named benchmarks, each in its own process if there are several."""
    arguments = sys.argv[1:]
    names = list(itertools.takewhile(lambda argument: not argument.startswith("-"), arguments))
    options = arguments[len(names) :]
    if not names and {"-h", "--help"} & set(options):
        every = {**MAIN, **REST, **SPECIAL}
        print(__doc__, *(f"  {name:16} {what}" for name, what in every.items()), sep="\n")
        return
    if unknown := set(names) - {*MAIN, *REST, *SPECIAL, "all"}:
        raise SystemExit(f"no such benchmark: {', '.join(sorted(unknown))}")
    chosen = [*MAIN, *REST] if "all" in names else names or [*MAIN]
    if len(chosen) == 1:
        _run_here(chosen[0], options)
    elif failed := [name for name in chosen if _run(name, options)]:
        raise SystemExit(f"failed: {', '.join(failed)}")


def _run_here(name: str, options: list[str]) -> None:
    module = import_module(f"benchmarks.{name}" + (".__main__" if name in SPECIAL else ""))
    sys.argv = [f"python -m benchmarks {name}", *options]
    sys.exit(module.main())


def _run(name: str, options: list[str]) -> int:
    print(f"\n{name}", flush=True)
    command = [sys.executable, "-m", "benchmarks", name, *options]
    return subprocess.run(command, cwd=REPOSITORY, check=False).returncode


if __name__ == "__main__":
    main()
