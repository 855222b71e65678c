"""Load from several cores: a process on each runs the C generator, or `kotae bench`'s without a C compiler.

`python -m benchmarks.gpu.loads PORT SECONDS CLIENTS FILE` runs the latter on requests in the format of
`openloop.c`. It prints the number of good answers, the number of others, and the seconds.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvloop

from benchmarks.machine import REPOSITORY
from benchmarks.openloop import Stream, load
from service.tools.load.generator import Generator
from service.tools.load.plan import Address, Plan
from service.tools.load.tally import Tally


def closed_loops(
    port: int, requests: Sequence[bytes], clients: int, seconds: float, cores: Sequence[int]
) -> float:
    """Run clients that each wait for an answer before the next request.

    Args:
        port: The server's port on 127.0.0.1.
        requests: Divided between the cores, so that no two cores send the same.
        clients: Number of clients on all cores.
        seconds: Duration.
        cores: The load runs in a process on each.

    Returns:
        Answers per second.

    Raises:
        SystemExit: An answer has another status than 200.
    """
    each = max(1, clients // len(cores))
    shares = [requests[k :: len(cores)] or requests for k in range(len(cores))]
    one = _with_c if has_compiler() else _with_python
    with ThreadPoolExecutor(len(cores)) as pool:
        jobs = [
            pool.submit(one, port, share, each, seconds, core)
            for share, core in zip(shares, cores, strict=True)
        ]
        return sum(job.result() for job in jobs)


def has_compiler() -> bool:
    """Return whether the C generator can be built."""
    return bool(shutil.which("gcc") or shutil.which("cc"))


def _with_c(port: int, requests: Sequence[bytes], clients: int, seconds: float, core: int) -> float:
    stream = Stream(requests, clients=clients)
    (outcome,) = load(port, [stream], seconds, core=core, seed=core + 1, connections=clients)
    return outcome.require_clean("the service").rate


def _with_python(port: int, requests: Sequence[bytes], clients: int, seconds: float, core: int) -> float:
    with tempfile.NamedTemporaryFile() as file:
        file.writelines(struct.pack("=I", len(request)) + request for request in requests)
        file.flush()
        command = ["taskset", "-c", str(core), sys.executable, "-m", "benchmarks.gpu.loads"]
        command += [str(port), str(seconds), str(clients), file.name]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the load generator failed: {done.stderr}")
    found = json.loads(done.stdout)
    if found["other"] or not found["good"]:
        raise SystemExit(f"the service: not every request was answered: {found}")
    return float(found["good"] / found["seconds"])


def _read(path: Path) -> Iterator[bytes]:
    content, start = path.read_bytes(), 0
    while start < len(content):
        (length,) = struct.unpack_from("=I", content, start)
        yield content[start + 4 : start + 4 + length]
        start += 4 + length


def main() -> None:
    """Run a load from this core."""
    port, seconds, clients, path = sys.argv[1:]
    address = Address("127.0.0.1", int(port), False, "/")
    plan = Plan(address, tuple(_read(Path(path))), float(seconds), clients=int(clients))
    tally = Tally()
    spent = uvloop.run(Generator(plan, tally).run())
    good = tally.statuses.get(200, 0)
    other = tally.answered - good + tally.broken + tally.unanswered + tally.unsent
    print(json.dumps({"good": good, "other": other, "seconds": spent}))


if __name__ == "__main__":
    main()
