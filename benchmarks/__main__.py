"""Kotae against the textbook endpoint: the same graph, the same picture, interleaved in one run.

`python -m benchmarks [--seconds 4] [--rounds 5]` needs `wrk` and two cores: the servers are pinned to core
0, the load to core 1. Prints, for each number of clients, the median of the paired ratios of requests a
second, and server CPU time per request. Absolute rates depend on the machine; quote the ratios.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

REPOSITORY = Path(__file__).parents[1]
CLIENTS = (1, 8, 32, 64)
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Target:
    """A running server and the request that it is sent."""

    name: str
    url: str
    pid: int
    script: Path


@dataclass(frozen=True)
class Reading:
    """One measurement: requests a second, and server CPU milliseconds a request."""

    rate: float
    cpu_ms: float


def measure(target: Target, clients: int, seconds: float) -> Reading:
    """Load a server with `clients` connections that each wait for their answer."""
    command = ["taskset", "-c", "1", "wrk", "-t", "1", "-c", str(clients), "-d", f"{seconds:g}s", "--latency"]
    before = _cpu_seconds(target.pid)
    output = subprocess.run(
        [*command, "-s", str(target.script), target.url], capture_output=True, text=True, check=True
    ).stdout
    used = _cpu_seconds(target.pid) - before
    if "Non-2xx" in output or "Socket errors" in output:
        raise SystemExit(f"{target.name}: some requests failed:\n{output}")
    requests = int(_find(r"(\d+) requests in", output))
    return Reading(float(_find(r"Requests/sec:\s+([\d.]+)", output)), used / requests * 1000)


@contextmanager
def server(name: str, command: list[str], port: int, path: str, script: Path) -> Iterator[Target]:
    """Run a server on core 0 for the length of a block."""
    process = subprocess.Popen(
        ["taskset", "-c", "0", sys.executable, "-m", *command], cwd=REPOSITORY, stdout=subprocess.DEVNULL
    )
    try:
        _wait_for(port)
        yield Target(name, f"http://127.0.0.1:{port}{path}", process.pid, script)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if shutil.which("wrk") is None or len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("needs wrk (Debian package wrk) and two cores")
    picture = next((REPOSITORY / "models/digits/1/golden").glob("*.png")).read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        raw = _script(Path(folder) / "raw.lua", picture, "image/png")
        form = _script(Path(folder) / "form.lua", _form(picture), "multipart/form-data; boundary=b")
        ours, theirs = _free_port(), _free_port()
        kotae = ["service", "serve", "--port", str(ours)]
        textbook = ["benchmarks.textbook", "models/digits/1", str(theirs)]
        with (
            server("kotae", kotae, ours, "/v1/image-classification", raw) as a,
            server("textbook", textbook, theirs, "/predict", form) as b,
        ):
            Console().print(_table(a, b, arguments.rounds, arguments.seconds))


def _table(a: Target, b: Target, rounds: int, seconds: float) -> Table:
    table = Table(
        "clients", "requests/s over textbook", "min … max", "CPU ms a request", "textbook's", "over"
    )
    with Progress(transient=True) as progress:
        for clients in progress.track(CLIENTS):
            for target in (a, b):
                measure(target, clients, 1)
            pairs = [(measure(a, clients, seconds), measure(b, clients, seconds)) for _ in range(rounds)]
            ratios = [ours.rate / theirs.rate for ours, theirs in pairs]
            ours_cpu, theirs_cpu = (statistics.median(pair[i].cpu_ms for pair in pairs) for i in (0, 1))
            table.add_row(
                str(clients),
                f"{statistics.median(ratios):.2f}",
                f"{min(ratios):.2f} … {max(ratios):.2f}",
                f"{ours_cpu:.3f}",
                f"{theirs_cpu:.3f}",
                f"{ours_cpu / theirs_cpu:.2f}",
            )
    return table


def _script(path: Path, body: bytes, content_type: str) -> Path:
    """Write a wrk script that posts a body."""
    text = "".join(f"\\x{byte:02x}" for byte in body)
    path.write_text(
        f'wrk.method = "POST"\nwrk.body = "{text}"\nwrk.headers["Content-Type"] = "{content_type}"\n'
    )
    return path


def _form(picture: bytes) -> bytes:
    disposition = b'Content-Disposition: form-data; name="file"; filename="x.png"'
    return b"\r\n".join([b"--b", disposition, b"Content-Type: image/png", b"", picture, b"--b--", b""])


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _find(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise SystemExit(f"wrk printed something else:\n{text}")
    return match[1]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait_for(port: int) -> None:
    for _ in range(200):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/docs", timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the server did not start")


if __name__ == "__main__":
    main()
