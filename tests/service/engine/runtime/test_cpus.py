"""How many CPUs there really are, and how sessions share them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.runtime.cpus import CpuPlan, Share, available_cpus, plan_cpus, usable_cpus


@pytest.fixture
def host_of_32(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that believes it has 32 CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(32)))


def tree(root: Path, files: dict[str, str]) -> Path:
    """Write what the kernel would show."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V2 = "sys/fs/cgroup"
V1 = "sys/fs/cgroup/cpu,cpuacct"
LIMITED = {
    "a container": {"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "200000 100000\n"},
    "no word of the group": {f"{V2}/cpu.max": "200000 100000\n"},
    "a service of the host": {
        "proc/self/cgroup": "0::/system.slice/kotae.service\n",
        f"{V2}/system.slice/kotae.service/cpu.max": "200000 100000\n",
    },
    "a group with a colon in its name": {
        "proc/self/cgroup": "0::/a:b\n",
        f"{V2}/a:b/cpu.max": "200000 100000\n",
    },
    "the parent of its group": {
        "proc/self/cgroup": "0::/pods/one/app\n",
        f"{V2}/pods/one/app/cpu.max": "max 100000\n",
        f"{V2}/pods/one/cpu.max": "200000 100000\n",
        f"{V2}/pods/cpu.max": "800000 100000\n",
    },
    "version 1": {
        "proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/docker/abc\n0::/docker/abc\n",
        f"{V1}/docker/abc/cpu.cfs_quota_us": "200000\n",
        f"{V1}/docker/abc/cpu.cfs_period_us": "100000\n",
    },
    "version 1 in a container that sees the path of the host": {
        "proc/self/cgroup": "3:cpu,cpuacct:/docker/abc\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "50000\n",
    },
}
FREE = {
    "no cgroups": {},
    "no quota": {"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "max 100000\n"},
    "version 1 without quota": {
        "proc/self/cgroup": "3:cpu:/\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    },
    "nonsense": {"proc/self/cgroup": "nonsense\n\n0::\n", f"{V2}/cpu.max": "many\n"},
    "the quota of another group": {
        "proc/self/cgroup": "4:memory:/x\n",
        "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "200000\n",
        "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
    },
    "a quota of nothing": {"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "0 100000\n"},
    "a period of nothing": {"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "200000 0\n"},
}


@pytest.mark.usefixtures("host_of_32")
@pytest.mark.parametrize("name", LIMITED)
def test_a_quota_of_two_cpus_is_two_cpus_whatever_the_host_has(name: str, tmp_path: Path) -> None:
    assert usable_cpus(tree(tmp_path, LIMITED[name])) == 2
    assert available_cpus(tmp_path) == 2


@pytest.mark.usefixtures("host_of_32")
@pytest.mark.parametrize("name", FREE)
def test_without_a_quota_the_affinity_counts(name: str, tmp_path: Path) -> None:
    assert usable_cpus(tree(tmp_path, FREE[name])) == 32


@pytest.mark.usefixtures("host_of_32")
@pytest.mark.parametrize(("quota", "threads"), [("150000", 2), ("50000", 1), ("100", 1), ("9900000", 32)])
def test_a_part_of_a_cpu_is_worth_a_thread(quota: str, threads: int, tmp_path: Path) -> None:
    tree(tmp_path, {"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": f"{quota} 100000\n"})
    assert available_cpus(tmp_path) == threads


def test_this_process_has_at_least_one_cpu_and_no_more_than_the_machine() -> None:
    assert 1 <= available_cpus() <= (os.cpu_count() or 1)


def test_of_few_cpus_one_lane_takes_all_and_does_not_spin_beside_the_rest_of_the_service() -> None:
    assert plan_cpus(1) == CpuPlan(lanes=1, threads=1, asked=False, spinning=False) == CpuPlan()
    assert plan_cpus(2) == CpuPlan(lanes=1, threads=2, spinning=False)


def test_of_more_cpus_one_is_left_to_the_rest_of_the_service_and_the_others_spin() -> None:
    assert plan_cpus(4) == CpuPlan(lanes=1, threads=3, spinning=True)
    assert plan_cpus(16) == CpuPlan(lanes=1, threads=15, spinning=True)


def test_lanes_divide_the_cpus() -> None:
    assert plan_cpus(9, lanes=2) == CpuPlan(lanes=2, threads=4, spinning=True)
    assert plan_cpus(8, lanes=3) == CpuPlan(lanes=3, threads=2, spinning=True)
    assert plan_cpus(2, lanes=4) == CpuPlan(lanes=4, threads=1, spinning=False)


def test_a_number_of_threads_that_is_named_holds() -> None:
    assert plan_cpus(16, threads=3) == CpuPlan(lanes=1, threads=3, asked=True, spinning=True)
    assert plan_cpus(2, threads=8) == CpuPlan(lanes=1, threads=8, asked=True, spinning=False)


def test_threads_of_which_some_would_wait_for_a_cpu_do_not_spin() -> None:
    assert not plan_cpus(2.5, threads=2).spinning
    assert not plan_cpus(3, threads=3).spinning
    assert not plan_cpus(4, lanes=2, threads=2).spinning
    assert plan_cpus(5, lanes=2, threads=2).spinning


def test_the_wish_of_a_model_counts_where_it_runs() -> None:
    assert plan_cpus(5, shares=[Share(lanes=2)]) == CpuPlan(lanes=1, threads=2, spinning=True)
    assert not plan_cpus(5, shares=[Share(lanes=2, threads=3)]).spinning
    assert plan_cpus(5, shares=[Share(threads=1)]) == CpuPlan(lanes=1, threads=4, spinning=True)
    # One model has lane 0 with three threads, the other a second lane with one: four at once.
    assert plan_cpus(5, threads=1, shares=[Share(1, 3), Share(2, 1)]).spinning
    assert not plan_cpus(5, threads=1, shares=[Share(1, 3), Share(2, 2)]).spinning


@given(st.floats(0.01, 64), st.integers(1, 8))
def test_without_wishes_the_lanes_never_want_more_than_a_thread_too_many(cpus: float, lanes: int) -> None:
    plan = plan_cpus(cpus, lanes=lanes)
    assert plan.threads >= 1
    assert plan.threads * lanes < max(lanes, cpus + 1) + 1e-9 or plan.threads == 1
    assert plan.spinning == (plan.threads * lanes + 1 <= cpus)
