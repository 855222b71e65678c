"""The C load generator (`openloop.c`): built on first use, told what to send, its answer read back."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.machine import cache_folder

SOURCE = Path(__file__).with_name("openloop.c")
_PATIENCE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Stream:
    """One kind of request.

    Attributes:
        requests: Whole HTTP requests, sent in turn from a random one on.
        clients: Closed loop, or 0.
        rate: Open loop: mean requests a second, or 0.
        deadline_ms: From when a request was meant to leave; None is no deadline.
    """

    requests: Sequence[bytes]
    clients: int = 0
    rate: float = 0.0
    deadline_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one stream.

    Attributes:
        arrivals: Requests that were meant to leave; only counted in open loop.
        in_deadline: Answers with status 200 in time.
        latency_ms: Quantiles of answers with status 200, `refusal_ms` of all others, `lag_ms` of how late the
            generator itself was.
        seconds: How long requests were sent; in closed loop, until the last answer.
    """

    arrivals: int
    sent: int
    in_deadline: int
    broken: int
    unanswered: int
    unsent: int
    statuses: Mapping[str, int]
    latency_ms: Mapping[str, float]
    refusal_ms: Mapping[str, float]
    lag_ms: Mapping[str, float]
    seconds: float

    @property
    def ok(self) -> int:
        """Answers with status 200."""
        return self.statuses.get("200", 0)

    @property
    def refused(self) -> int:
        """Answers of any other status."""
        return sum(self.statuses.values()) - self.ok

    @property
    def late(self) -> int:
        """Answers with status 200 after the deadline."""
        return self.ok - self.in_deadline

    @property
    def rate(self) -> float:
        """Answers with status 200 a second."""
        return self.ok / self.seconds

    @property
    def goodput(self) -> float:
        """Answers with status 200 in time a second."""
        return self.in_deadline / self.seconds

    def require_clean(self, who: str) -> Outcome:
        """Give the outcome, if every request got its answer.

        Raises:
            SystemExit: Something else came than status 200.
        """
        if self.refused or self.broken or self.unanswered or self.unsent or not self.ok:
            raise SystemExit(f"{who}: not every request was answered: {self}")
        return self


def load(
    port: int,
    streams: Sequence[Stream],
    seconds: float,
    *,
    core: int,
    seed: int = 1,
    connections: int = 2000,
    patience_seconds: float = _PATIENCE_SECONDS,
) -> list[Outcome]:
    """Make a load from one core.

    Args:
        port: On 127.0.0.1.
        streams: What to send.
        seconds: How long to send it.
        core: Where the generator runs.
        seed: Of arrivals and choices.
        connections: Most requests under way at once.
        patience_seconds: How long answers are waited for after the last request.

    Returns:
        One outcome a stream, in their order.
    """
    program = build()
    with tempfile.TemporaryDirectory() as folder:
        arguments = []
        for number, stream in enumerate(streams):
            path = Path(folder) / f"{number}"
            path.write_bytes(b"".join(struct.pack("=I", len(r)) + r for r in stream.requests))
            how = f"clients={stream.clients}" if stream.clients else f"rate={stream.rate!r}"
            late = "" if stream.deadline_ms is None else f",deadline={stream.deadline_ms!r}"
            arguments.append(f"{path},{how}{late}")
        numbers = (port, seconds, seed, connections, patience_seconds)
        command = ["taskset", "-c", str(core), str(program), *map(str, numbers), *arguments]
        limit = seconds + patience_seconds + 60
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)
    if done.returncode:
        raise SystemExit(f"the load generator failed: {done.stderr}")
    report = json.loads(done.stdout)
    return [
        Outcome(**found, seconds=report["until_last_answer" if stream.clients else "seconds"])
        for stream, found in zip(streams, report["streams"], strict=True)
    ]


@cache
def build() -> Path:
    """Compile the generator, unless this very source has been before.

    Returns:
        The program.

    Raises:
        SystemExit: There is no C compiler, or it fails.
    """
    source = SOURCE.read_bytes()
    program = cache_folder() / f"openloop-{hashlib.sha256(source).hexdigest()[:16]}"
    if program.exists():
        return program
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise SystemExit("needs a C compiler (Debian package gcc)")
    with tempfile.TemporaryDirectory(dir=program.parent) as folder:
        draft = Path(folder) / "openloop"
        flags = ["-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror"]
        done = subprocess.run(
            [compiler, *flags, "-o", str(draft), str(SOURCE), "-lm"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{SOURCE.name} does not compile:\n{done.stderr}")
        draft.replace(program)
    return program
