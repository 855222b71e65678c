"""Metrics of several processes: counters are summed and continue after a restart, gauges do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import values
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from service.telemetry.devices import DeviceState
from service.telemetry.metrics import Metrics, ModelState
from service.telemetry.shared_metrics import SharedMetrics
from tests.service.telemetry.test_metrics import BATCH, REQUEST

Process = Callable[..., SharedMetrics]


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Process:
    """Makes the metrics of another process, as far as files go."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)  # put back in the end
    return lambda name, restarts=0: SharedMetrics(name, tmp_path, restarts)


def sums(metrics: SharedMetrics) -> dict[str, float]:
    """Each sample's name and value, added up over its labels."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            assert "pid" not in sample.labels, sample
            found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


def test_any_process_returns_the_sum_of_all(process: Process) -> None:
    engine, *workers = process("engine"), process("http-0"), process("http-1")
    engine.batch_done(BATCH)
    for worker in workers:
        worker.request_started()
        worker.request_done(REQUEST)
        worker.request_started()
    for metrics in (engine, *workers):
        found = sums(metrics)
        assert found["kotae_requests_total"] == 2
        assert found["kotae_request_duration_seconds_count"] == 2
        assert found["kotae_items_total"] == 2 * REQUEST.items
        assert found["kotae_batch_items_sum"] == BATCH.items
        assert found["kotae_inflight_requests"] == 2
        assert found["kotae_process_restarts_total"] == 0


def test_a_restarted_process_continues_the_counters(process: Process) -> None:
    process("engine")
    dead = process("http-0")
    for _ in range(3):
        dead.request_started()
        dead.request_done(REQUEST)
    dead.request_started()  # and dies
    before = sums(dead)
    successor = process("http-0", restarts=1)
    after = sums(successor)
    assert after["kotae_requests_total"] == before["kotae_requests_total"] == 3
    assert after["process_cpu_seconds_total"] >= before["process_cpu_seconds_total"]
    assert after["kotae_inflight_requests"] == 0
    assert after["kotae_process_restarts_total"] == 1
    successor.request_started()
    successor.request_done(REQUEST)
    assert sums(successor)["kotae_requests_total"] == 4
    assert sums(process("http-0", restarts=2))["kotae_process_restarts_total"] == 2


def test_process_metrics_are_summed_over_all_processes(process: Process) -> None:
    one = sums(process("engine"))
    two = sums(process("http-0"))
    for name in ("process_resident_memory_bytes", "process_virtual_memory_bytes"):
        assert two[name] == pytest.approx(2 * one[name], rel=0.2)
    assert two["process_start_time_seconds"] == one["process_start_time_seconds"] > 1e9
    assert two["process_max_fds"] == one["process_max_fds"]
    assert two["process_open_fds"] < 1.9 * one["process_open_fds"]
    assert two["process_cpu_seconds_total"] > 1.5 * one["process_cpu_seconds_total"] > 0


def test_cpu_time_is_counted_once(process: Process) -> None:
    metrics = process("engine")
    first = sums(metrics)["process_cpu_seconds_total"]
    for _ in range(5):
        metrics.heartbeat()
    assert sums(metrics)["process_cpu_seconds_total"] < 2 * first


def test_a_file_that_is_not_filled_yet_does_not_fail_the_scrape(
    process: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = process("engine")
    collect, unfilled = MultiProcessCollector.collect, tmp_path / "counter_http-0.db"

    def fill_after_the_first(collector: MultiProcessCollector) -> object:
        try:
            return collect(collector)  # type: ignore[no-untyped-call]
        finally:
            unfilled.unlink(missing_ok=True)

    monkeypatch.setattr(MultiProcessCollector, "collect", fill_after_the_first)
    unfilled.touch()
    assert b"kotae_inflight_requests" in metrics.render()


def test_metrics_have_the_same_names_as_in_a_single_process(process: Process) -> None:
    def names(metrics: Metrics) -> set[str]:
        metrics.watch(lambda: [ModelState("m", "1", ready=True)], lambda: [("cpu", False)], 2**30)
        metrics.process_restarted("http", 0)
        text = metrics.render().decode()
        return {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}

    single = Metrics()
    shared = process("http-0")
    for metrics in (single, shared):
        metrics.lane_added("cpu")
        metrics.model_added("m", "1")
        metrics.model_placed("m", "1", "cpu")
        metrics.request_started()
        metrics.request_done(REQUEST)
        metrics.cache_sized("m", "1", 0)
        metrics.batch_done(BATCH)
        metrics.heartbeat()
    assert names(shared) == names(single)


def test_only_the_scraped_process_reports_the_devices(process: Process) -> None:
    workers = [process("http-0"), process("http-1")]
    for worker in workers:
        worker.watch_devices(lambda: [DeviceState("cuda:0", 5, 100)])
    for worker in workers:
        assert sums(worker)["kotae_device_memory_bytes"] == 105
