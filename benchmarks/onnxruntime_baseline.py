"""Bare ONNX Runtime in one process on one core, with perfect batches, no HTTP and no queue.

`python -m benchmarks.onnxruntime_baseline FOLDER THREADS` reads one JSON object a line from standard input
and answers each with one: `{"seconds": 2, "how": {"kind": "count", "most": 8}, "decode": true, "items":
[base64, …]}` → `{"rate": items a second, …}`. `BareEngine` is the client. Items are decoded by the
service's own functions.

Batches of kind `count` hold that many items in the order in which they come. For kind `cost` all items are
sorted by length, and each batch is filled up to a padded cost; no service can do that, because it does not
know future requests.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import REPOSITORY
from benchmarks.workloads import Workload
from service.engine.runtime.session import Device, Session
from service.repository.manifest import MANIFEST_FILE, VERSION_FILE, ModelManifest, VersionFacts, read
from service.tasks import TASKS, Limits, Task

Row = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Batches:
    """A way to form batches.

    Attributes:
        most: Largest number of items, or largest padded cost.
    """

    kind: Literal["count", "cost"]
    most: int


ONE_BY_ONE = Batches("count", 1)


@dataclass(frozen=True, slots=True)
class Part:
    """A decoded item."""

    inputs: Row
    cost: int


class Engine:
    """A version folder, its task and a session."""

    def __init__(self, folder: Path, threads: int) -> None:
        facts = read(folder / VERSION_FILE, VersionFacts)
        manifest = read(folder.parent / MANIFEST_FILE, ModelManifest)
        self._task: Task = TASKS[manifest.task](folder, facts)
        self._session = Session(folder / facts.variants[0].file, Device("cpu"), threads=threads)

    def decode(self, raw: bytes) -> Part:
        """Return a raw item as the graph's inputs."""
        decoded = self._task.decode(raw, Limits(), self._task.parameters())
        return Part(decoded.parts[0], decoded.costs[0])

    def run(self, batch: Sequence[Part]) -> None:
        """Run a batch."""
        self._session.run(padded([part.inputs for part in batch]))

    def rate(self, raws: Sequence[bytes], how: Batches, seconds: float, *, decode: bool) -> dict[str, float]:
        """Run all items repeatedly, always to the end, so that all lengths have the same weight.

        Args:
            raws: Raw items.
            how: Way to form batches.
            seconds: Least duration.
            decode: Whether decoding each item is part of the measured time.

        Returns:
            `rate` in items a second of wall time, `cpu_rate` of CPU time, `batch_seconds` of a mean batch,
            `padding` the padded cost over the real one.
        """
        parts = [self.decode(raw) for raw in raws]
        batches = make_batches([part.cost for part in parts], how)
        for batch in batches[:2]:
            self.run([parts[i] for i in batch])
        items = runs = 0
        began, used = time.perf_counter(), time.process_time()
        while (spent := time.perf_counter() - began) < seconds or not items:
            for batch in batches:
                self.run([self.decode(raws[i]) if decode else parts[i] for i in batch])
            items += len(parts)
            runs += len(batches)
        cpu = time.process_time() - used
        real = sum(part.cost for part in parts)
        cost = sum(len(batch) * max(parts[i].cost for i in batch) for batch in batches)
        rates = {"rate": items / spent, "cpu_rate": items / max(cpu, 1e-9)}
        return {**rates, "batch_seconds": spent / runs, "padding": cost / real}


def make_batches(costs: Sequence[int], how: Batches) -> list[list[int]]:
    """Group items into batches.

    Returns:
        Lists of indices; every item is in one of them.
    """
    if how.kind == "count":
        return [list(range(i, min(i + how.most, len(costs)))) for i in range(0, len(costs), how.most)]
    batches: list[list[int]] = []
    for index in sorted(range(len(costs)), key=lambda i: costs[i]):
        if batches and costs[index] * (len(batches[-1]) + 1) <= how.most:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def padded(rows: Sequence[Row]) -> dict[str, NDArray[Any]]:
    """Stack rows, padded with zeros to the longest."""
    stacked = {}
    for name in rows[0]:
        arrays = [row[name] for row in rows]
        if len({array.shape for array in arrays}) == 1:
            stacked[name] = np.stack(arrays)
            continue
        stacked[name] = np.zeros((len(arrays), max(map(len, arrays))), dtype=arrays[0].dtype)
        for target, array in zip(stacked[name], arrays, strict=True):
            target[: len(array)] = array
    return stacked


class BareEngine:
    """A running `benchmarks.onnxruntime_baseline` process."""

    def __init__(self, process: subprocess.Popen[str], workload: Workload) -> None:
        self._process = process
        self._items = [base64.b64encode(item).decode() for item in workload.items]

    def measure(self, how: Batches, seconds: float, *, decode: bool = True) -> dict[str, float]:
        """Measure once; see `Engine.rate`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        question = {"seconds": seconds, "how": asdict(how), "decode": decode, "items": self._items}
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the bare engine ended")
        return cast(dict[str, float], json.loads(line))

    def best(self, choices: Sequence[Batches], seconds: float, *, decode: bool = True) -> Batches:
        """Return the fastest way to form batches."""
        return max(choices, key=lambda how: self.measure(how, seconds, decode=decode)["rate"])


@contextmanager
def bare_engine(workload: Workload, core: int, threads: int = 1) -> Iterator[BareEngine]:
    """Run bare ONNX Runtime on a core while the context is open."""
    command = ["taskset", "-c", str(core), sys.executable, "-m", "benchmarks.onnxruntime_baseline"]
    command += [str(workload.folder), str(threads)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    with process:
        try:
            yield BareEngine(process, workload)
        finally:
            assert process.stdin is not None
            process.stdin.close()


def main() -> None:
    """Answer questions until standard input ends."""
    engine = Engine(Path(sys.argv[1]), int(sys.argv[2]))
    for line in sys.stdin:
        question = json.loads(line)
        raws = [base64.b64decode(item) for item in question["items"]]
        how = Batches(**question["how"])
        print(json.dumps(engine.rate(raws, how, question["seconds"], decode=question["decode"])), flush=True)


if __name__ == "__main__":
    main()
