"""How many CPUs this process may use, and how sessions share them.

ONNX Runtime considers neither quota nor affinity: in a container with two CPUs on a host of 32 it would start
32 threads. So the size of every pool of the service is computed here.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


def usable_cpus(root: Path = Path("/")) -> float:
    """Return the number of usable CPUs: the least of affinity and each cgroup's quota.

    Args:
        root: The folder with `proc` and `sys`.

    Returns:
        CPUs; a fraction if a quota says so.
    """
    return min([float(len(os.sched_getaffinity(0))), *_quotas(root)])


def available_cpus(root: Path = Path("/")) -> int:
    """Return the number of threads that can run at once on `usable_cpus`; at least 1."""
    return max(1, math.ceil(usable_cpus(root)))


def _quotas(root: Path) -> Iterator[float]:
    """Go through the quotas of the cgroups that this process is in, in CPUs."""
    mounts = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    for line in lines or ["0::/"]:
        fields = line.split(":", 2)
        if len(fields) < 3:
            continue
        _, controllers, path = fields
        # A container may see its own cgroup at the mount's root, whatever the path is: so read all parents.
        for group in [PurePosixPath(path), *PurePosixPath(path).parents]:
            inner = str(group).lstrip("/")
            if controllers == "":  # version 2: one tree
                yield from _quota(mounts / inner / "cpu.max")
            elif "cpu" in controllers.split(","):  # version 1: a tree of its own, under either name
                for name in (controllers, "cpu"):
                    yield from _quota(mounts / name / inner / "cpu.cfs_quota_us", "cpu.cfs_period_us")


def _quota(path: Path, period_file: str | None = None) -> Iterator[float]:
    """Read one quota: `QUOTA PERIOD` in one file, or in two; `max` and -1 are no quota."""
    try:
        text = path.read_text(encoding="ascii")
        if period_file:
            text += " " + path.with_name(period_file).read_text(encoding="ascii")
        quota, period = map(int, text.split())
    except (OSError, ValueError):
        return
    if quota > 0 and period > 0:
        yield quota / period


_ENOUGH = 4  # CPUs; with fewer, the sessions' threads use all of them


@dataclass(frozen=True, slots=True)
class Share:
    """What one model needs of the CPUs; None is the process's own number.

    Attributes:
        lanes: CPU lanes on which the model has an instance.
        threads: Threads of each instance.
    """

    lanes: int | None = None
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class CpuPlan:
    """How CPU sessions share the CPUs.

    Attributes:
        lanes: CPU lanes on which a model has an instance, unless it needs another number.
        threads: Threads of a session, unless its model needs another number.
        asked: Whether the number of threads was set; if not, a small graph has one.
        spinning: Whether idle threads of a running session spin. That gives up to half of the speed while
            each thread has a CPU, and costs most of it when they share CPUs.
    """

    lanes: int = 1
    threads: int = 1
    asked: bool = False
    spinning: bool = False


def plan_cpus(
    cpus: float, *, lanes: int = 1, threads: int | None = None, shares: Sequence[Share] = ()
) -> CpuPlan:
    """Divide the CPUs among sessions.

    A lane runs one batch at a time, so the threads that run at once are those of each lane's largest session.
    The event loop and the decoding threads need CPUs too. If there are enough, one is left to them; if none
    is left, the sessions' threads do not spin.

    Args:
        cpus: The CPUs to use; see `usable_cpus`.
        lanes: Lanes of a model, unless it needs another number.
        threads: Threads of a session; None divides the CPUs by the lanes.
        shares: The models that need other numbers.
    """
    most = max([lanes, *(share.lanes or lanes for share in shares)])
    whole = math.ceil(cpus)
    each = threads or max(1, (whole - 1 if whole >= _ENOUGH else whole) // most)
    wanted = [(lanes, each), *((share.lanes or lanes, share.threads or each) for share in shares)]
    running = sum(max(count for on_lanes, count in wanted if on_lanes > lane) for lane in range(most))
    return CpuPlan(lanes, each, asked=threads is not None, spinning=running + 1 <= cpus)
