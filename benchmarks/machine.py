"""The machine: cores, description, and interruptions by other work."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]

_GAP_SECONDS = 0.0005  # a longer gap between two clock readings is an interruption
_LIBRARIES = (
    "kotae",
    "onnxruntime",
    "onnxruntime-gpu",
    "fastapi",
    "uvicorn",
    "numpy",
    "pillow",
    "tokenizers",
)


@dataclass(frozen=True, slots=True)
class Cores:
    """The core of the service and the core of the load."""

    service: int
    load: int


def cores(*, quick: bool = False) -> Cores:
    """Return the first and the last core that this process may use.

    Args:
        quick: Allow one core for both, because nothing is measured.

    Raises:
        SystemExit: There is only one.
    """
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2 and not quick:
        raise SystemExit("needs two cores: one for the service, one for the load")
    return Cores(usable[0], usable[-1])


def facts() -> dict[str, str]:
    """Return date, machine, library versions and commit of a measurement."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    libraries = ", ".join(found for name in _LIBRARIES if (found := _installed(name)))
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpus": f"{os.cpu_count()} of {cpu}",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "libraries": libraries,
        "commit": _commit(),
    }


@dataclass(frozen=True, slots=True)
class Jitter:
    """Interruptions of a busy loop on a core, which would delay any server there.

    Attributes:
        lost_share: Share of the time in gaps of over half a millisecond.
        gaps_per_second: How many of them.
        p99_gap_ms: Quantile of their lengths, `longest_gap_ms` the longest; 0 without any.
    """

    lost_share: float
    gaps_per_second: float
    p99_gap_ms: float
    longest_gap_ms: float

    @classmethod
    def of(cls, gaps_seconds: list[float], seconds: float) -> Jitter:
        """Summarise the gaps of a loop of this duration."""
        if not gaps_seconds:
            return cls(0.0, 0.0, 0.0, 0.0)
        p99 = float(np.quantile(gaps_seconds, 0.99, method="higher"))
        count = len(gaps_seconds) / seconds
        return cls(sum(gaps_seconds) / seconds, count, p99 * 1e3, max(gaps_seconds) * 1e3)

    def as_json(self) -> dict[str, float]:
        """Return all fields, rounded, for a JSON file."""
        return {name: round(value, 5) for name, value in asdict(self).items()}


def measure_jitter(core: int, seconds: float = 2.0) -> Jitter:
    """Run a busy loop on a core, in its own process, and return its interruptions."""
    command = ["taskset", "-c", str(core), sys.executable, "-m", "benchmarks.machine", str(seconds)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY).stdout
    return Jitter.of([float(gap) for gap in output.split()], seconds)


def spin(seconds: float) -> list[float]:
    """Read the clock in a busy loop and return the gaps over half a millisecond, in seconds."""
    gaps = []
    last = time.perf_counter()
    end = last + seconds
    while last < end:
        now = time.perf_counter()
        if now - last > _GAP_SECONDS:
            gaps.append(now - last)
        last = now
    return gaps


def cache_folder() -> Path:
    """Return a cache folder for files that can be made again."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "kotae-benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _installed(name: str) -> str | None:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return None


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


if __name__ == "__main__":
    print(*spin(float(sys.argv[1])))
