"""Starts replicas of the service and a Prometheus that scrapes them, on loopback addresses."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import yaml

from benchmarks.observability.queries import RULES
from benchmarks.servers import free_port, running
from benchmarks.workloads import Workload, shipped_workloads
from service.repository.golden import write_golden_arrays
from service.repository.manifest import VERSION_FILE, Batching
from service.tasks import TASKS
from tests.tiny_models import SIZE, finish_version, make_model, picture

SCRAPE_SECONDS = 2
_START_SECONDS = 120


def make_models(folder: Path, shipped: Path | None) -> None:
    """Fill a folder with models that together produce every metric.

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


def observed_workloads(models: Path) -> list[Workload]:
    """Return the models and their items: golden files, or random pictures. `noise` is the last."""
    pictures = tuple(picture(seed, size=size) for seed in range(60) for size in (8, 28, 200))
    workloads = [
        replace(found, items=pictures) if found.name in ("kept", "noise") else found
        for found in shipped_workloads(models, TASKS)
    ]
    return sorted(workloads, key=lambda workload: workload.name == "noise")


@contextlib.contextmanager
def services(models: Path, folder: Path, replicas: int) -> Iterator[list[int]]:
    """Serve models in several processes; yield their ports when all are ready."""
    cores = sorted(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        ports = [free_port() for _ in range(replicas)]
        for port in ports:
            command = ["service", "serve", "--port", str(port), "--models", str(models)]
            log = folder / f"kotae-{port}.log"
            stack.enter_context(running("kotae", command, port, cores, ready="/readyz", log=log))
        yield ports


@contextlib.contextmanager
def prometheus(ports: Sequence[int], folder: Path) -> Iterator[str]:
    """Run a Prometheus with the chart's rules that scrapes these ports often.

    The rules are evaluated at every scrape, whatever their own interval, because the run is short.

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
        {"targets": [f"127.0.0.1:{port}"], "labels": {"instance": f"replica-{i}"}}
        for i, port in enumerate(ports, start=1)
    ]
    config = {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": [f"{rules}/*.yaml"],
        "scrape_configs": [{"job_name": "kotae", "static_configs": scrape}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait_until_ready(address)
        yield address
    finally:
        process.terminate()
        process.wait(60)


def _wait_until_ready(address: str) -> None:
    limit = time.monotonic() + _START_SECONDS
    while time.monotonic() < limit:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{address}/-/ready").status_code == 200:
                return
        time.sleep(0.2)
    raise TimeoutError(f"Prometheus was not ready within {_START_SECONDS} s")
