"""The service and a Prometheus that scrapes it, as processes on loopback addresses."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import yaml

from benchmarks.observability.queries import RULES
from benchmarks.workloads import Workload, shipped_workloads
from service.repository.golden import write_golden_arrays
from service.repository.manifest import VERSION_FILE, Batching
from service.tasks import TASKS
from tests.tiny_models import SIZE, finish_version, make_model, picture

SCRAPE_SECONDS = 2
_START_SECONDS = 120


def make_models(folder: Path, shipped: Path | None) -> None:
    """Fill a folder with models that show every metric.

    Beside the shipped ones: `kept`, which keeps its answers, and `noise`, with a queue so short that it
    refuses, whose version 3 has a wrong hash and version 2 wrong golden answers, so that version 1 serves.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for model in sorted(shipped.iterdir()) if shipped else ():
        if any(model.glob(f"*/{VERSION_FILE}")):
            shutil.copytree(model, folder / model.name)
    make_model(folder, "kept", answer_cache_bytes=4096)
    batching = Batching(max_items=8, max_queue_items=16)
    for version in (1, 2, 3):
        path = make_model(folder, "noise", version=version, batching=batching, deadline_seconds=2.0)
        if version == 2:
            pixels = np.zeros((1, SIZE, SIZE, 1), np.uint8)
            write_golden_arrays(path, {"image": pixels}, {"probabilities": np.eye(1, 4, dtype=np.float32)})
            finish_version(path)
        if version == 3:
            (path / "labels.txt").write_text("changed after export\n", encoding="utf-8")


def asked(models: Path) -> list[Workload]:
    """Say what each model is asked: its golden files, or pictures of noise; `noise` is the last."""
    pictures = tuple(picture(seed, size=size) for seed in range(60) for size in (8, 28, 200))
    workloads = [
        replace(found, items=pictures) if found.name in ("kept", "noise") else found
        for found in shipped_workloads(models, TASKS)
    ]
    return sorted(workloads, key=lambda workload: workload.name == "noise")


@contextlib.contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[None]:
    """Run a process at low priority for as long as the context lasts."""
    with log.open("wb") as output:
        process = subprocess.Popen(["nice", *command], stdout=output, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def services(models: Path, folder: Path, replicas: int) -> Iterator[list[str]]:
    """Serve models in several processes.

    Yields:
        Their addresses, ready.
    """
    ports = [_free_port() for _ in range(replicas)]
    with contextlib.ExitStack() as stack:
        for port in ports:
            command = [sys.executable, "-m", "service", "serve", "--port", str(port), "--models", str(models)]
            stack.enter_context(running(command, folder / f"kotae-{port}.log"))
        addresses = [f"http://127.0.0.1:{port}" for port in ports]
        for address in addresses:
            _wait_until_ok(f"{address}/readyz")
        yield addresses


@contextlib.contextmanager
def prometheus(targets: Sequence[str], folder: Path) -> Iterator[str]:
    """Run a Prometheus with our rules that scrapes the targets often.

    The rules are evaluated as often as it scrapes, whatever their own interval, as the run is short.

    Yields:
        Its address, ready.
    """
    rules = folder / "rules"
    rules.mkdir()
    for path in RULES.glob("*.yaml"):
        text = re.sub(r"(?m)^ +interval: .*\n", "", path.read_text(encoding="utf-8"))
        (rules / path.name).write_text(text, encoding="utf-8")
    interval = f"{SCRAPE_SECONDS}s"
    scrape = [
        {"targets": [target.removeprefix("http://")], "labels": {"instance": f"replica-{i}"}}
        for i, target in enumerate(targets, start=1)
    ]
    config = {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": [f"{rules}/*.yaml"],
        "scrape_configs": [{"job_name": "kotae", "static_configs": scrape}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    port = _free_port()
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with running(command, folder / "prometheus.log"):
        _wait_until_ok(f"http://127.0.0.1:{port}/-/ready")
        yield f"http://127.0.0.1:{port}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ok(url: str) -> None:
    limit = time.monotonic() + _START_SECONDS
    while time.monotonic() < limit:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url).status_code == 200:
                return
        time.sleep(0.2)
    raise TimeoutError(f"{url} did not answer 200 within {_START_SECONDS} s")
