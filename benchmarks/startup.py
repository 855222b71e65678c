"""Time from `kotae serve` to ready with the shipped models, over importing libraries and loading graphs.

`python -m benchmarks startup [--models FOLDER]`: the baseline is a Python program on the same core that
imports the libraries of the service and opens one ONNX Runtime session for each graph, with as many
threads. Kotae also hashes every file, checks golden answers and warms up before it is ready.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import REPOSITORY
from benchmarks.pairs import interleaved, ratios
from benchmarks.report import Report, Run, parse
from benchmarks.servers import free_port, running
from service.repository.manifest import VERSION_FILE, VersionFacts, read, version_folders

_BASELINE = """
import sys
import contextlib, fastapi, filetype, httptools, numpy, orjson, PIL.Image, prometheus_client
import pydantic_settings, python_multipart, simplejpeg, soundfile, soxr, tokenizers, uvicorn, uvloop, yaml
import onnxruntime as ort
with contextlib.suppress(ImportError):  # optional
    import cykooz_resizer
options = ort.SessionOptions()
options.intra_op_num_threads = int(sys.argv[1])
sessions = [ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for path in sys.argv[2:]]
"""


def main() -> None:
    """Measure and report."""
    run, options = parse("startup", __doc__, rounds=6, seconds=0, add=_add_options)
    graphs = _graphs(options.models)
    start_kotae(run, options.models)  # loads the files into the page cache for both
    with run.progress(run.rounds * 2) as tick:
        pairs = interleaved(
            run.rounds, lambda: start_kotae(run, options.models), lambda: load_all(run, graphs), tick=tick
        )
    report = Report(run, f"start with {len(graphs)} models", "time to ready over the baseline")
    report.add("kotae serve until /readyz is 200", ratios(pairs), 2.0, at_least=False)
    report.details["seconds: kotae, baseline"] = pairs
    report.finish()


def start_kotae(run: Run, models: Path) -> float:
    """Return the seconds from start to ready."""
    port = free_port()
    command = ["service", "serve", "--port", str(port), "--models", str(models.resolve())]
    began = time.perf_counter()
    with running("kotae", command, port, [run.cores.service], ready="/readyz"):
        return time.perf_counter() - began


def load_all(run: Run, graphs: Sequence[Path]) -> float:
    """Return the seconds that the baseline takes."""
    command = ["taskset", "-c", str(run.cores.service), sys.executable, "-c", _BASELINE, "1"]
    began = time.perf_counter()
    subprocess.run([*command, *map(str, graphs)], check=True, cwd=REPOSITORY)
    return time.perf_counter() - began


def _graphs(models: Path) -> list[Path]:
    newest = [versions[0][1] for folder in sorted(models.iterdir()) if (versions := _versions(folder))]
    return [folder / read(folder / VERSION_FILE, VersionFacts).variants[0].file for folder in newest]


def _versions(folder: Path) -> list[tuple[int, Path]]:
    return version_folders(folder) if folder.is_dir() else []


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", type=Path, default=REPOSITORY / "models")
