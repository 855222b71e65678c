"""CPU time of a request's transfer from an HTTP worker to the engine process and back.

`python -m benchmarks ipc [--bytes 150528] [--at-once 1,8,32]`: tensors go through the shared memory and
tokens through the socket of `--http-workers`, between two processes, to a queue that copies each into a
batch's buffer and answers with 1,000 numbers. The cost of the transfer is the CPU time of both processes,
less that of the same work in one process. Both may use every core.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import uvloop

from benchmarks.machine import REPOSITORY
from benchmarks.pairs import Estimate, interleaved
from benchmarks.report import Report, parse
from service.engine.queue.pending_request import PendingRequest
from service.engine.queue.request_queue import RequestQueue
from service.multiprocess.engine_connection import EngineConnection
from service.multiprocess.token_socket import ConnectionDescriptors
from service.multiprocess.worker_connection import WorkerConnection

GOAL_MICROSECONDS = 100
_MEMORY_BYTES = 256 * 2**20
_CLASSES = 1000
_MAX_ITEMS = 64

Submit = Callable[[PendingRequest], None]


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU microseconds a request."""

    here: float
    there: float = 0.0


class Instant:
    """A queue without a model: copies rows as a batch does, and answers once per event loop iteration."""

    queue_items = 0
    predicted_wait_seconds = 0.0
    predicted_answer_seconds = 0.0
    is_refusing = False
    closed = False

    def __init__(self, size: int) -> None:
        self._buffer = np.zeros((_MAX_ITEMS, size), np.uint8)
        self._answer = np.zeros(_CLASSES, np.float32)
        self._tickets: list[PendingRequest] = []

    def check(self, priority: int, deadline: float, coming: int) -> None:
        """Accept every request."""

    def submit(self, pending: PendingRequest, *, on_loop: bool = False) -> None:
        """Accept a request."""
        if not self._tickets:
            asyncio.get_running_loop().call_soon(self._run)
        self._tickets.append(pending)

    def close(self, reason: str) -> None:
        """Do nothing: requests do not wait here."""

    def _run(self) -> None:
        pending_requests, self._tickets = self._tickets, []
        for row, pending in enumerate(pending_requests):
            for item in pending.items:
                np.copyto(self._buffer[row % _MAX_ITEMS], item.inputs["x"])
                pending.settle(item, {"y": self._answer})


def main() -> None:
    """Measure and report."""
    if sys.argv[1:2] == ["engine"]:
        uvloop.run(_run_engine(ConnectionDescriptors(*map(int, sys.argv[2:5])), int(sys.argv[5])))
        return
    run, options = parse("ipc", __doc__, rounds=6, seconds=1, add=_add_options)
    title = f"{options.bytes / 1000:.0f} kB to the engine and back"
    report = Report(run, title, "CPU µs a request")
    with run.progress(len(options.at_once) * run.rounds * 2) as tick:
        for count in options.at_once:
            in_flight = InFlight(options.bytes, count, run.seconds)
            pairs = interleaved(run.rounds, in_flight.through, in_flight.alone, tick=tick)
            hop = Estimate.of(a.here + a.there - b.here for a, b in pairs)
            report.add(f"{count} in flight: the transfer", hop, GOAL_MICROSECONDS, at_least=False)
            report.add(f"{count} in flight: worker in total", Estimate.of(a.here for a, _ in pairs))
            report.add(f"{count} in flight: engine in total", Estimate.of(a.there for a, _ in pairs))
            report.add(f"{count} in flight: in one process", Estimate.of(b.here for _, b in pairs))
    report.finish()


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bytes", type=int, default=224 * 224 * 3, help="of one item (default %(default)s)")
    parser.add_argument(
        "--at-once", type=lambda text: [int(part) for part in text.split(",")], default=[1, 8, 32]
    )


@dataclass(frozen=True, slots=True)
class InFlight:
    """A fixed number of requests in flight for some time.

    Attributes:
        size: Bytes of each item.
        count: Number of requests in flight.
    """

    size: int
    count: int
    seconds: float

    def through(self) -> Cost:
        """Measure requests to another process and back."""

        async def measure() -> Cost:
            with _engine(self.size) as (connection, engine):
                return await self._measure(lambda pending: connection.submit("m", "1", pending), engine)

        return uvloop.run(measure())

    def alone(self) -> Cost:
        """Measure the same work within this process."""

        async def measure() -> Cost:
            return await self._measure(Instant(self.size).submit, None)

        return uvloop.run(measure())

    async def _measure(self, submit: Submit, engine: int | None) -> Cost:
        await self._run(submit, self.seconds / 5)
        here, there = time.process_time(), _cpu_seconds(engine)
        done = await self._run(submit, self.seconds)
        here, there = time.process_time() - here, _cpu_seconds(engine) - there
        return Cost(here / done * 1e6, there / done * 1e6)

    async def _run(self, submit: Submit, seconds: float) -> int:
        end = time.monotonic() + seconds
        done = 0

        async def visit(seed: int) -> None:
            nonlocal done
            pixels = np.random.default_rng(seed).integers(0, 256, self.size, np.uint8)
            while time.monotonic() < end:
                pending = PendingRequest(deadline=time.monotonic() + 60)
                pending.fill([{"x": pixels}], [1])
                submit(pending)
                await pending.outputs()
                pending.close()
                done += 1

        await asyncio.gather(*(visit(seed) for seed in range(self.count)))
        return done


@contextmanager
def _engine(size: int) -> Iterator[tuple[EngineConnection, int]]:
    """Start the engine process; yield the connection and the process id."""
    near, far = socket.socketpair()
    memories = [os.memfd_create(name) for name in ("inputs", "outputs")]
    for memory in memories:
        os.truncate(memory, _MEMORY_BYTES)
    passed = (far.fileno(), *memories)
    command = [sys.executable, "-m", "benchmarks.ipc", "engine", *map(str, passed), str(size)]
    process = subprocess.Popen(command, cwd=REPOSITORY, pass_fds=passed)
    far.close()
    connection = EngineConnection(
        ConnectionDescriptors(near.detach(), *memories), lambda _: None, lambda: None
    )
    try:
        yield connection, process.pid
    finally:
        connection.disconnect()
        process.wait(20)


async def _run_engine(ends: ConnectionDescriptors, size: int) -> None:
    over = asyncio.Event()
    queue: RequestQueue = Instant(size)
    relay = WorkerConnection(ends, lambda *_: queue, lambda _: over.set())
    await over.wait()
    relay.close()


def _cpu_seconds(pid: int | None) -> float:
    """Return the CPU seconds of a process, by the clock id of `clock_getcpuclockid(3)`."""
    return 0.0 if pid is None else time.clock_gettime((~pid << 3) | 2)


if __name__ == "__main__":
    main()
