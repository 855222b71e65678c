"""Metrics: names and labels follow the conventions, and each event changes the right metrics."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from service.engine.observer import BatchReport
from service.telemetry.devices import DeviceState
from service.telemetry.metrics import Metrics, ModelState, RequestReport

LABELS = {
    "model",
    "version",
    "task",
    "route",
    "method",
    "status",
    "stage",
    "reason",
    "device",
    "precision",
    "provider",
    "process",
    "kind",
    "resource",
}
_ADDED_BY_THE_FORMAT = {"le", "quantile"}
_OF_THE_PLATFORM = re.compile(r"^(process_|python_info)")

# What a name ends in says what is counted: a unit in the plural, or what the number means.
_HISTOGRAM = re.compile(r"_(seconds|bytes|items|ratio)$")
_GAUGE = re.compile(r"_(seconds|bytes|items|requests|info|ready|failed|error|up|ratio|celsius|watts)$")

BATCH = BatchReport(
    model="digits",
    version="1",
    device="cpu",
    items=3,
    padding_ratio=1.2,
    queue_seconds=(0.001, 0.002, 0.004),
    batch_seconds=0.0002,
    infer_seconds=0.03,
)
REQUEST = RequestReport(
    route="/v1/image-classification",
    method="POST",
    status=200,
    seconds=0.05,
    model="digits",
    version="1",
    task="image-classification",
    items=3,
    stages=(("decode", 0.01), ("encode", 0.0001)),
)
STATE = ModelState(
    model="digits",
    version="1",
    task="image-classification",
    device="cpu",
    precision="fp32",
    provider="cpu",
    ready=True,
    load_seconds=1.5,
    golden_check_error=2e-6,
    queue_items=4,
    queue_limit_items=512,
    predicted_wait_seconds=0.25,
)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """All of our samples but the buckets."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name.startswith("kotae_") and not sample.name.endswith("_bucket")
    }


@pytest.fixture
def metrics() -> Metrics:
    """Fresh metrics."""
    return Metrics()


@pytest.fixture
def all_in_use(metrics: Metrics) -> Metrics:
    """Metrics after one event of every kind."""
    metrics.model_added("digits", "1")
    metrics.lane_added("cpu")
    metrics.request_started()
    metrics.request_done(REQUEST)
    metrics.request_started()
    metrics.request_done(replace(REQUEST, status=429, items=0, refused="queue_full"))
    metrics.batch_done(BATCH)
    metrics.batch_failed("digits", "1")
    metrics.model_placed("digits", "1", "cuda:0")
    metrics.out_of_memory("digits", "1", "cuda:0")
    metrics.item_dropped("digits", "1", "expired")
    metrics.items_shared("digits", "1", 2)
    metrics.cache_sized("digits", "1", 100)
    metrics.cache_asked("digits", "1", 1, 2)
    metrics.lane_busy("cpu", 0.5)
    metrics.lane_died("cpu", RuntimeError("x"))
    metrics.process_restarted("engine")
    metrics.heartbeat()
    metrics.event_loop_lag.observe(0.01)
    metrics.watch(
        lambda: [STATE, ModelState("broken", "2", failed_check="golden"), ModelState("empty")],
        lambda: [("cpu", False), ("cuda:0", True)],
        2**30,
    )
    metrics.watch_devices(lambda: [DeviceState("cuda:0", 2**30, 2**36, 0.5, 61.0, 350.0, 0)])
    return metrics


def families(metrics: Metrics) -> Iterator[Metric]:
    for family in metrics.registry.collect():
        if not _OF_THE_PLATFORM.match(family.name):
            yield family


# --- names and labels ------------------------------------------------------------------------


def test_every_metric_has_our_prefix_and_an_explanation(all_in_use: Metrics) -> None:
    for family in families(all_in_use):
        assert re.fullmatch(r"kotae(_[a-z0-9]+)+", family.name), family.name
        assert family.documentation.endswith("."), family.name
        assert family.samples, f"{family.name} is never set by this test"


def test_names_end_in_what_they_count(all_in_use: Metrics) -> None:
    for family in families(all_in_use):
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples), family.name
        elif family.type == "histogram":
            assert _HISTOGRAM.search(family.name), family.name
        else:
            assert family.type == "gauge", family.name
            assert _GAUGE.search(family.name), family.name
        assert not re.search(r"(_ms|milli|_second|_byte|_item|_request|_kb|_mb)$", family.name), family.name


def test_labels_come_from_the_closed_set(all_in_use: Metrics) -> None:
    for family in families(all_in_use):
        for sample in family.samples:
            extra = set(sample.labels) - LABELS - _ADDED_BY_THE_FORMAT
            assert not extra, f"{sample.name} has labels {extra}"


def test_the_documented_metrics_are_there(all_in_use: Metrics) -> None:
    found = {sample.name for family in families(all_in_use) for sample in family.samples}
    assert {
        "kotae_requests_total",
        "kotae_request_duration_seconds_bucket",
        "kotae_stage_duration_seconds_bucket",
        "kotae_items_total",
        "kotae_batch_items_bucket",
        "kotae_batch_padding_ratio_bucket",
        "kotae_queue_items",
        "kotae_queue_predicted_wait_seconds",
        "kotae_inflight_requests",
        "kotae_rejected_total",
        "kotae_batch_failures_total",
        "kotae_model_info",
        "kotae_model_ready",
        "kotae_model_load_seconds",
        "kotae_golden_check_error",
        "kotae_lane_busy_seconds_total",
        "kotae_event_loop_lag_seconds_bucket",
    } <= found


def test_buckets_of_time_reach_from_a_millisecond_to_a_minute(all_in_use: Metrics) -> None:
    for family in families(all_in_use):
        if family.type != "histogram" or not family.name.endswith("_seconds"):
            continue
        edges = sorted({float(s.labels["le"]) for s in family.samples if s.name.endswith("_bucket")})
        assert edges[0] <= 0.001
        assert edges[-2:] == [60, float("inf")]
        assert all(high / low <= 3 for low, high in pairwise(edges[:-1])), edges


def test_what_is_exposed_can_be_parsed_and_has_no_series_of_creation_times(all_in_use: Metrics) -> None:
    text = generate_latest(all_in_use.registry).decode()
    names = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    assert "kotae_requests_total" in names
    assert not [name for name in names if name.endswith("_created")]


def test_two_sets_of_metrics_are_independent(metrics: Metrics) -> None:
    other = Metrics()
    metrics.lane_busy("cpu", 1)
    assert value(metrics, "kotae_lane_busy_seconds_total", device="cpu") == 1
    assert value(other, "kotae_lane_busy_seconds_total", device="cpu") is None


def test_the_process_reports_its_memory_and_cpu(metrics: Metrics) -> None:
    assert value(metrics, "process_resident_memory_bytes")
    assert value(metrics, "process_cpu_seconds_total")


# --- requests --------------------------------------------------------------------------------


def test_a_request_counts_as_in_progress_until_it_is_done(metrics: Metrics) -> None:
    metrics.request_started()
    metrics.request_started()
    assert value(metrics, "kotae_inflight_requests") == 2
    metrics.request_done(REQUEST)
    assert value(metrics, "kotae_inflight_requests") == 1


def test_a_request_is_counted_and_timed_by_route_method_status_and_model(metrics: Metrics) -> None:
    metrics.request_done(REQUEST)
    labels = {
        "route": "/v1/image-classification",
        "method": "POST",
        "status": "200",
        "model": "digits",
    }
    assert value(metrics, "kotae_requests_total", **labels) == 1
    assert value(metrics, "kotae_request_duration_seconds_count", **labels) == 1
    assert value(metrics, "kotae_request_duration_seconds_sum", **labels) == 0.05
    assert value(metrics, "kotae_request_duration_seconds_bucket", **labels, le="0.025") == 0
    assert value(metrics, "kotae_request_duration_seconds_bucket", **labels, le="0.05") == 1


def test_the_stages_of_a_request_are_timed_by_model(metrics: Metrics) -> None:
    metrics.request_done(REQUEST)
    assert value(metrics, "kotae_stage_duration_seconds_sum", stage="decode", model="digits") == 0.01
    assert value(metrics, "kotae_stage_duration_seconds_sum", stage="encode", model="digits") == 0.0001


def test_only_answered_items_are_counted(metrics: Metrics) -> None:
    labels = {"model": "digits", "version": "1", "task": "image-classification"}
    for status in (400, 429, 499, 500, 503, 504):
        metrics.request_done(replace(REQUEST, status=status))
    assert value(metrics, "kotae_items_total", **labels) is None
    metrics.request_done(REQUEST)
    assert value(metrics, "kotae_items_total", **labels) == 3


def test_failed_requests_are_timed_too(metrics: Metrics) -> None:
    metrics.request_done(replace(REQUEST, status=500))
    labels = {"route": REQUEST.route, "method": "POST", "status": "500", "model": "digits"}
    assert value(metrics, "kotae_request_duration_seconds_count", **labels) == 1


def test_a_rejected_request_is_counted_by_its_reason(metrics: Metrics) -> None:
    metrics.request_done(replace(REQUEST, status=429, refused="connections"))
    assert value(metrics, "kotae_rejected_total", model="digits", reason="connections") == 1
    metrics.request_done(replace(REQUEST, status=400))
    assert value(metrics, "kotae_rejected_total", model="digits", reason="connections") == 1


@given(st.lists(st.sampled_from([200, 400, 429, 499, 500, 503, 504])))
@settings(deadline=None, max_examples=25)
def test_started_and_done_always_balance(statuses: list[int]) -> None:
    metrics = Metrics()
    for status in statuses:
        metrics.request_started()
        metrics.request_done(replace(REQUEST, status=status))
    assert value(metrics, "kotae_inflight_requests") == 0
    counted = [v for (name, _), v in samples(metrics).items() if name == "kotae_requests_total"]
    assert sum(counted) == len(statuses)


# --- the engine ------------------------------------------------------------------------------


def test_a_batch_changes_its_own_samples_and_no_others(metrics: Metrics) -> None:
    before = samples(metrics)
    metrics.batch_done(BATCH)
    model, version = ("model", "digits"), ("version", "1")

    def stage(name: str) -> tuple[tuple[str, str], ...]:
        return (model, ("stage", name))

    after = {key: value for key, value in samples(metrics).items() if before.get(key) != value}
    assert after == {
        ("kotae_batch_items_count", (model, version)): 1,
        ("kotae_batch_items_sum", (model, version)): 3,
        ("kotae_batch_padding_ratio_count", (model, version)): 1,
        ("kotae_batch_padding_ratio_sum", (model, version)): 1.2,
        ("kotae_stage_duration_seconds_count", stage("queue")): 3,
        ("kotae_stage_duration_seconds_sum", stage("queue")): pytest.approx(0.007),
        ("kotae_stage_duration_seconds_count", stage("batch")): 1,
        ("kotae_stage_duration_seconds_sum", stage("batch")): 0.0002,
        ("kotae_stage_duration_seconds_count", stage("infer")): 1,
        ("kotae_stage_duration_seconds_sum", stage("infer")): 0.03,
    }


def test_failures_in_the_engine_are_counted_separately(metrics: Metrics) -> None:
    metrics.batch_failed("digits", "1")
    metrics.item_dropped("digits", "1", "expired")
    metrics.item_dropped("digits", "1", "expired")
    metrics.lane_died("cuda:0", RuntimeError("x"))
    metrics.lane_busy("cuda:0", 0.5)
    metrics.lane_busy("cuda:0", 0.25)
    assert value(metrics, "kotae_batch_failures_total", model="digits", version="1") == 1
    assert value(metrics, "kotae_dropped_items_total", model="digits", version="1", reason="expired") == 2
    assert value(metrics, "kotae_lane_restarts_total", device="cuda:0") == 1
    assert value(metrics, "kotae_lane_busy_seconds_total", device="cuda:0") == 0.75


def test_utilization_is_the_busy_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = _metrics_at(clock := _Clock(), monkeypatch)
    metrics.lane_added("cpu")
    metrics.lane_added("cuda:0")
    for _ in range(300):  # ten times the average's time constant
        clock.now += 1
        clock.cpu += 0.25
        metrics.lane_busy("cpu", 0.5)
        metrics.lane_busy("cuda:0", 0.8)
        metrics.decoding_busy(0.4, threads=4)
        metrics.heartbeat()
    ratios = {resource: _utilization(metrics, resource) for resource in ("lane", "decoding", "event_loop")}
    assert ratios == {
        "lane": pytest.approx(0.65, rel=0.01),
        "decoding": pytest.approx(0.1, rel=0.01),
        "event_loop": pytest.approx(0.25, rel=0.01),
    }
    for _ in range(300):
        clock.now += 1
        metrics.heartbeat()
    assert _utilization(metrics, "lane") < 0.01


def test_a_long_batch_counts_for_the_time_that_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = _metrics_at(clock := _Clock(), monkeypatch)
    metrics.lane_added("cpu")
    for second in range(1, 601):
        clock.now += 1
        if second % 10 == 0:
            metrics.lane_busy("cpu", 10)  # is told when it ends
        metrics.heartbeat()
    assert _utilization(metrics, "lane") == pytest.approx(1, rel=0.2)


class _Clock:
    now = 100.0
    cpu = 10.0


def _metrics_at(clock: _Clock, monkeypatch: pytest.MonkeyPatch) -> Metrics:
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(time, "thread_time", lambda: clock.cpu)
    return Metrics()


def _utilization(metrics: Metrics, resource: str) -> float:
    ratio = value(metrics, "kotae_utilization_ratio", resource=resource)
    assert ratio is not None
    return ratio


def test_deduplicated_and_cached_items_are_counted(metrics: Metrics) -> None:
    labels = {"model": "digits", "version": "1"}
    metrics.model_added("digits", "1")
    assert value(metrics, "kotae_deduplicated_items_total", **labels) == 0
    assert value(metrics, "kotae_answer_cache_hits_total", **labels) is None  # there is no cache yet
    metrics.cache_sized("digits", "1", 0)
    assert value(metrics, "kotae_answer_cache_hits_total", **labels) == 0
    metrics.items_shared("digits", "1", 2)
    metrics.cache_asked("digits", "1", 3, 1)
    metrics.cache_sized("digits", "1", 500)
    assert value(metrics, "kotae_deduplicated_items_total", **labels) == 2
    assert value(metrics, "kotae_answer_cache_hits_total", **labels) == 3
    assert value(metrics, "kotae_answer_cache_misses_total", **labels) == 1
    assert value(metrics, "kotae_answer_cache_bytes", **labels) == 500


def test_counters_of_a_new_model_and_lane_begin_at_zero(metrics: Metrics) -> None:
    metrics.model_added("digits", "1")
    metrics.lane_added("cpu")
    assert value(metrics, "kotae_batch_failures_total", model="digits", version="1") == 0
    assert value(metrics, "kotae_rejected_total", model="digits", reason="queue_full") == 0
    for reason in ("expired", "gone", "failed_sibling", "shutdown"):
        assert value(metrics, "kotae_dropped_items_total", model="digits", version="1", reason=reason) == 0
    assert value(metrics, "kotae_lane_restarts_total", device="cpu") == 0
    metrics.batch_failed("digits", "1")
    metrics.model_added("digits", "1")
    assert value(metrics, "kotae_batch_failures_total", model="digits", version="1") == 1


# --- the state -------------------------------------------------------------------------------


def test_the_state_of_a_version_is_read_at_the_scrape(metrics: Metrics) -> None:
    states = [STATE]
    metrics.watch(lambda: states, lambda: [], None)
    names = {"model": "digits", "version": "1"}
    info = {"task": "image-classification", "device": "cpu", "precision": "fp32", "provider": "cpu"}
    assert value(metrics, "kotae_model_info", **names, **info) == 1
    assert value(metrics, "kotae_model_ready", **names) == 1
    assert value(metrics, "kotae_model_load_seconds", **names) == 1.5
    assert value(metrics, "kotae_golden_check_error", **names) == 2e-6
    assert value(metrics, "kotae_queue_items", **names) == 4
    assert value(metrics, "kotae_queue_limit_items", **names) == 512
    assert value(metrics, "kotae_queue_predicted_wait_seconds", **names) == 0.25
    states[0] = replace(STATE, ready=False, queue_items=0)
    assert value(metrics, "kotae_model_ready", **names) == 0
    assert value(metrics, "kotae_queue_items", **names) == 0
    states.clear()
    assert value(metrics, "kotae_model_ready", **names) is None


def test_a_failed_version_has_the_step_that_failed(metrics: Metrics) -> None:
    failed = ModelState("digits", "2", failed_check="golden")
    metrics.watch(lambda: [STATE, failed], lambda: [], None)
    assert value(metrics, "kotae_model_ready", model="digits", version="2") == 0
    assert value(metrics, "kotae_model_check_failed", model="digits", version="2", reason="golden") == 1
    assert value(metrics, "kotae_golden_check_error", model="digits", version="2") is None
    assert value(metrics, "kotae_model_check_failed", model="digits", version="1", reason="golden") is None


def test_a_model_without_versions_is_not_ready(metrics: Metrics) -> None:
    metrics.watch(lambda: [ModelState("digits")], lambda: [], None)
    assert value(metrics, "kotae_model_ready", model="digits", version="") == 0


def test_an_lane_that_is_not_restarted_is_reported(metrics: Metrics) -> None:
    metrics.watch(lambda: [], lambda: [("cpu", False), ("cuda:0", True)], None)
    assert value(metrics, "kotae_lane_failed", device="cpu") == 0
    assert value(metrics, "kotae_lane_failed", device="cuda:0") == 1


@pytest.mark.parametrize("limit", [2**30, None])
def test_the_memory_limit_is_reported_if_there_is_one(metrics: Metrics, limit: int | None) -> None:
    metrics.watch(lambda: [], lambda: [], limit)
    assert value(metrics, "kotae_memory_limit_bytes") == limit
