"""Starts servers pinned to cores, reads their CPU time, memory and metrics, and stops them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.machine import REPOSITORY
from benchmarks.workloads import Workload, repository_of
from service.settings import PREFIX

_TICKS = os.sysconf("SC_CLK_TCK")
_START_SECONDS = 120.0
_STOP_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Server:
    """A running server process."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    cores: tuple[int, ...]

    def cpu_seconds(self) -> float:
        """Return the CPU time of all its threads, including ended ones."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def resident_bytes(self) -> int:
        """Return its resident memory in bytes."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def set_affinity(self) -> None:
        """Pin every thread to the server's cores again; ONNX Runtime pins its pools itself."""
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            try:
                os.sched_setaffinity(int(task.name), self.cores)
            except ProcessLookupError:  # the thread has ended
                continue

    def get(self, path: str) -> tuple[int, str]:
        """Send a GET request.

        Returns:
            Status and text; status 0 without an answer.
        """
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def counters(self) -> Counters:
        """Read `/metrics`."""
        return Counters.read(self.get("/metrics")[1])


@dataclass(frozen=True, slots=True)
class Counters:
    """Prometheus samples at one moment."""

    samples: tuple[tuple[str, Mapping[str, str], float], ...]

    @classmethod
    def read(cls, text: str) -> Counters:
        """Parse the text format."""
        families = text_string_to_metric_families(text)
        return cls(tuple((s.name, s.labels, s.value) for family in families for s in family.samples))

    def by(self, name: str, label: str, **where: str) -> dict[str, float]:
        """Sum a metric by one of its labels, over the samples with these labels."""
        found: dict[str, float] = {}
        for sample, labels, value in self.samples:
            if sample == name and where.items() <= labels.items():
                key = labels.get(label, "")
                found[key] = found.get(key, 0.0) + value
        return found

    def total(self, name: str, **where: str) -> float:
        """Sum a metric over the samples with these labels."""
        return sum(self.by(name, "", **where).values())


@contextmanager
def running(
    name: str,
    command: Sequence[str],
    port: int,
    cores: Sequence[int],
    *,
    ready: str,
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> Iterator[Server]:
    """Run a Python module as a server while the context is open.

    Args:
        name: For messages.
        command: The module and its arguments.
        port: Where it will listen.
        cores: Where it runs.
        ready: Path that answers 200 when the server is ready.
        environment: Added to this environment without its Kotae settings.
        log: File for its standard output; None discards it.
    """
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)}
    pinned = ["taskset", "-c", ",".join(map(str, cores)), sys.executable, "-m", *command]
    with ExitStack() as stack:
        output = stack.enter_context(log.open("wb")) if log else subprocess.DEVNULL
        process = subprocess.Popen(
            pinned, cwd=REPOSITORY, env=inherited | dict(environment or {}), stdout=output
        )
        server = Server(name, port, process, tuple(cores))
        try:
            _wait_for(server, ready)
            yield server
        finally:
            _stop(process)


@contextmanager
def kotae(
    workloads: Sequence[Workload], cores: Sequence[int], *, log: Path | None = None, **settings: object
) -> Iterator[Server]:
    """Run Kotae while the context is open.

    Args:
        workloads: Their models are served.
        cores: Where it runs.
        log: File for its log.
        settings: By field name.
    """
    environment = {PREFIX + name.upper(): str(value) for name, value in settings.items()}
    port = free_port()
    with repository_of(workloads) as models:
        command = ["service", "serve", "--port", str(port), "--models", str(models)]
        with running(
            "kotae", command, port, cores, ready="/readyz", environment=environment, log=log
        ) as server:
            yield server


@contextmanager
def fastapi_baseline(
    workloads: Sequence[Workload],
    cores: Sequence[int],
    *,
    threads: int = 0,
    limit_concurrency: int | None = None,
    module: str = "benchmarks.fastapi_baseline",
) -> Iterator[Server]:
    """Run the FastAPI baseline, or the fixed-window one, while the context is open.

    Args:
        workloads: Their models are served.
        cores: Where it runs.
        threads: ONNX Runtime's threads for each session; 0 is the number of its cores, which is ONNX
            Runtime's default on a machine with that many cores.
        limit_concurrency: Uvicorn's limit, above which it answers 503.
        module: `benchmarks.fixed_window_baseline` for the fixed-window baseline.
    """
    port = free_port()
    models = [f"{workload.folder}={workload.baseline_graph}" for workload in workloads]
    command = [module, str(port), *models, "--threads", str(threads or len(cores))]
    if limit_concurrency:
        command += ["--limit-concurrency", str(limit_concurrency)]
    with running(module.rpartition(".")[2], command, port, cores, ready="/docs") as server:
        yield server


def free_port() -> int:
    """Return a free TCP port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait_for(server: Server, path: str) -> None:
    end = time.monotonic() + _START_SECONDS
    status, text = 0, ""
    while time.monotonic() < end:
        if server.process.poll() is not None:
            raise SystemExit(f"{server.name} ended with {server.process.returncode} before it served")
        status, text = server.get(path)
        if status == 200:
            return
        time.sleep(0.02)
    raise SystemExit(f"{server.name} did not start within {_START_SECONDS:g} s: {status} {text}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
