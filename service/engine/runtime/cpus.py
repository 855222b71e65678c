"""How many CPUs this process may really use, and how sessions share them.

ONNX Runtime looks at neither quota nor affinity when it sizes its pools: in a container with two CPUs on
a host of 32 it would start 32 threads. So every pool of the service is sized from here.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


def usable_cpus(root: Path = Path("/")) -> float:
    """Count the CPUs that this process may use: affinity and every cgroup's quota, whichever is least.

    Args:
        root: Where `proc` and `sys` are.

    Returns:
        A whole number, or what a quota leaves of one.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([float(cpus), *_quotas(root)])


def available_cpus(root: Path = Path("/")) -> int:
    """Count how many threads can make use of `usable_cpus`; at least 1."""
    return max(1, math.ceil(usable_cpus(root)))


def _quotas(root: Path) -> Iterator[float]:
    """Give the quota of each cgroup that this process is in, in CPUs, where there is one."""
    mounts = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    for line in lines or ["0::/"]:
        _, controllers, path = [*line.split(":", 2), "?", "/"][:3]
        # A container may see its own cgroup as the mount's root, whatever the path says: so ask all above it.
        for group in [PurePosixPath(path), *PurePosixPath(path).parents]:
            inner = str(group).lstrip("/")
            if controllers == "":  # version 2: one tree
                yield from _quota(mounts / inner / "cpu.max")
            elif "cpu" in controllers.split(","):  # version 1: a tree of its own, under either name
                for name in (controllers, "cpu"):
                    yield from _quota(mounts / name / inner / "cpu.cfs_quota_us", "cpu.cfs_period_us")


def _quota(path: Path, period_file: str | None = None) -> Iterator[float]:
    """Read one quota: `QUOTA PERIOD` in one file, or in two; none where it says `max` or -1."""
    try:
        text = path.read_text(encoding="ascii")
        if period_file:
            text += " " + path.with_name(period_file).read_text(encoding="ascii")
        quota, period = map(int, text.split())
    except (OSError, ValueError):
        return
    if quota > 0 and period > 0:
        yield quota / period


_ENOUGH = 4  # CPUs; of fewer a session's threads take all, and share them with the rest of the service


@dataclass(frozen=True, slots=True)
class Share:
    """What one model wants of the CPUs; None is the process's own number.

    Attributes:
        lanes: CPU lanes on which the model has an instance.
        threads: Of each instance.
    """

    lanes: int | None = None
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class CpuPlan:
    """How CPU sessions share the CPUs.

    Attributes:
        lanes: CPU lanes on which a model has an instance, if it wants no other number.
        threads: Of a session, if its model wants no other number.
        asked: Whether somebody named the number of threads; else a small graph gets by with one.
        spinning: Whether the threads of a running session wait for their next work awake. That is worth up
            to half of the speed while all of them have a CPU, and costs most of it when they do not.
    """

    lanes: int = 1
    threads: int = 1
    asked: bool = False
    spinning: bool = False


def plan_cpus(
    cpus: float, *, lanes: int = 1, threads: int | None = None, shares: Sequence[Share] = ()
) -> CpuPlan:
    """Divide the CPUs.

    A lane runs one batch at a time, so the threads that run at once are those of each lane's largest session.
    The event loop and the decoding_pool need CPUs too: where there are enough, one is left to them, and where
    there is none left, threads that wait awake would take theirs.

    Args:
        cpus: How many there are to use; see `usable_cpus`.
        lanes: Lanes of a model that wants no other number.
        threads: Threads of a session; None divides the CPUs by the lanes.
        shares: Of the models that want something else.
    """
    most = max([lanes, *(share.lanes or lanes for share in shares)])
    whole = math.ceil(cpus)
    each = threads or max(1, (whole - 1 if whole >= _ENOUGH else whole) // most)
    wanted = [(lanes, each), *((share.lanes or lanes, share.threads or each) for share in shares)]
    running = sum(max(count for held, count in wanted if held > lane) for lane in range(most))
    return CpuPlan(lanes, each, asked=threads is not None, spinning=running + 1 <= cpus)
