"""Prometheus metrics: all names, labels and buckets.

The HTTP middleware records requests (`request_done`); the engine records batches, through `Observer`. Gauges
of the catalog's and the lanes' state are read at each scrape, by `StateCollector`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from service.engine.observer import BatchReport, Observer
from service.telemetry.devices import DeviceCollector, DeviceState
from service.telemetry.logs import take_dropped_lines
from service.telemetry.utilization import Utilization

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_STAGE_SECONDS = (0.00005, 0.0001, 0.00025, 0.0005, *_SECONDS)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
REJECTION_REASONS = ("deadline", "decoding", "event_loop", "queue_full", "inflight_bytes", "connections")
DROP_REASONS = ("expired", "gone", "failed_sibling", "shutdown")
_RATIOS = (1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 4.0, 8.0)


@dataclass(slots=True)  # not frozen: a frozen one takes three times as long to build, for every request
class RequestReport:
    """One finished HTTP request.

    Attributes:
        route: The route's template; `unmatched` for paths without a route.
        stages: Name and seconds of the stages that the HTTP side measures.
        refused: Reason for which the request was rejected with 429; else empty.
    """

    route: str
    method: str
    status: int
    seconds: float
    model: str = ""
    version: str = ""
    task: str = ""
    items: int = 0
    stages: tuple[tuple[str, float], ...] = ()
    refused: str = ""


@dataclass(frozen=True, slots=True)
class ModelState:
    """State of one version of a model; of a model without versions, only the name is set."""

    model: str
    version: str = ""
    task: str = ""
    device: str = ""
    precision: str = ""
    provider: str = ""
    ready: bool = False
    failed_check: str | None = None
    load_seconds: float = 0.0
    golden_check_error: float | None = None
    queue_items: int = 0
    queue_limit_items: int = 0
    predicted_wait_seconds: float = 0.0


_AnyMetric = TypeVar("_AnyMetric", bound=MetricWrapperBase)


class _Children(dict[tuple[str, ...], _AnyMetric]):
    """A metric's children by label values: quicker than the library's `labels()`."""

    def __init__(self, metric: _AnyMetric) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, labels: tuple[str, ...]) -> _AnyMetric:
        child = self[labels] = self._metric.labels(*labels)
        return child


class Metrics(Observer):
    """All metrics, in their own registry."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # these series are not needed
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        version_labels = ("model", "version")
        self._requests = _Children(
            Counter(
                "kotae_requests",
                "Finished HTTP requests; status 499 means that the client disconnected.",
                ("route", "method", "status", "model"),
                registry=registry,
            )
        )
        self._request_seconds = _Children(
            Histogram(
                "kotae_request_duration_seconds",
                "Time from a request's first byte to the response.",
                ("route", "method", "status", "model"),
                buckets=_SECONDS,
                registry=registry,
            )
        )
        self._stage_seconds = _Children(
            Histogram(
                "kotae_stage_duration_seconds",
                "Time of a stage: decode and encode per request, queue per item, batch and infer per batch.",
                ("stage", "model"),
                buckets=_STAGE_SECONDS,
                registry=registry,
            )
        )
        self._items = _Children(
            Counter("kotae_items", "Items answered.", (*version_labels, "task"), registry=registry)
        )
        self._batch_items = _Children(
            Histogram(
                "kotae_batch_items", "Items in a batch.", version_labels, buckets=_ITEMS, registry=registry
            )
        )
        self._padding = _Children(
            Histogram(
                "kotae_batch_padding_ratio",
                "Cost of a batch with padding, divided by its cost without padding.",
                version_labels,
                buckets=_RATIOS,
                registry=registry,
            )
        )
        self._inflight = Gauge(
            "kotae_inflight_requests",
            "HTTP requests that are being processed.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._process_restarts = Counter(
            "kotae_process_restarts",
            "Restarts of processes that died; only with HTTP workers.",
            ("process",),
            registry=registry,
        )
        for process in ("engine", "http"):
            self.process_restarted(process, 0)
        self._rejected = _Children(
            Counter(
                "kotae_rejected",
                "Requests rejected with 429 before inference.",
                ("model", "reason"),
                registry=registry,
            )
        )
        self._dropped = Counter(
            "kotae_dropped_items",
            "Items removed from the queue without inference.",
            (*version_labels, "reason"),
            registry=registry,
        )
        self._shared = Counter(
            "kotae_deduplicated_items",
            "Items that used the result of an equal item in the queue or in inference.",
            version_labels,
            registry=registry,
        )
        self._cache_hits = Counter(
            "kotae_answer_cache_hits",
            "Items answered from the answer cache; only for models that have one.",
            version_labels,
            registry=registry,
        )
        self._cache_misses = Counter(
            "kotae_answer_cache_misses",
            "Items not found in the answer cache; only for models that have one.",
            version_labels,
            registry=registry,
        )
        self._cache_bytes = Gauge(
            "kotae_answer_cache_bytes",
            "Size of the answer cache; only for models that have one.",
            version_labels,
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._batch_failures = Counter(
            "kotae_batch_failures",
            "Batches whose inference failed or returned invalid outputs.",
            version_labels,
            registry=registry,
        )
        self._out_of_memory = Counter(
            "kotae_out_of_memory",
            "Batches that did not fit into the device's memory; each is run again in two halves.",
            (*version_labels, "device"),
            registry=registry,
        )
        self._lane_busy = _Children(
            Counter(
                "kotae_lane_busy_seconds",
                "Time that a device's lane spent on batches.",
                ("device",),
                registry=registry,
            )
        )
        self._lane_restarts = Counter(
            "kotae_lane_restarts",
            "Restarts of a lane whose thread died.",
            ("device",),
            registry=registry,
        )
        self.event_loop_lag = Histogram(
            "kotae_event_loop_lag_seconds",
            "Delay of the event loop's timer, measured at each heartbeat.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._utilization = Gauge(
            "kotae_utilization_ratio",
            "Share of time in which a resource was busy, a moving average over about 30 s: `lane`, mean "
            "of all devices; `decoding`, the decoding threads; `event_loop`. The highest of all processes.",
            ("resource",),
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._lanes: dict[str, Utilization] = {}
        self._decoding, self._event_loop = Utilization(), Utilization()
        self._event_loop_cpu_seconds = time.thread_time()
        self._log_lines_dropped = Counter(
            "kotae_log_lines_dropped",
            "Log lines dropped because standard output was not read quickly enough.",
            registry=registry,
        )

    def render(self) -> bytes:
        """Return all metrics in the text format."""
        return generate_latest(self.registry)

    def heartbeat(self) -> None:
        """Update what is measured at intervals; call it about every second, on the event loop's thread."""
        self._log_lines_dropped.inc(take_dropped_lines())
        cpu_seconds = time.thread_time()
        self._event_loop.add(max(0.0, cpu_seconds - self._event_loop_cpu_seconds))
        self._event_loop_cpu_seconds = cpu_seconds
        ratios = [lane.update() for lane in list(self._lanes.values())]
        self._utilization.labels("lane").set(sum(ratios) / max(1, len(ratios)))
        self._utilization.labels("decoding").set(self._decoding.update())
        self._utilization.labels("event_loop").set(self._event_loop.update())

    def decoding_busy(self, seconds: float, threads: int) -> None:
        """Record that one of the pool's threads was busy; may be called from any thread."""
        self._decoding.add(seconds / threads)

    def process_restarted(self, process: str, times: int = 1) -> None:
        """Count restarts of `engine` or `http` processes."""
        self._process_restarts.labels(process).inc(times)

    def connection_refused(self) -> None:
        """Count a connection that was closed at once, because as many as allowed were open."""
        self._rejected["", "connections"].inc()

    def request_started(self) -> None:
        """Count a request as being processed."""
        self._inflight.inc()

    def request_done(self, report: RequestReport) -> None:
        """Record a finished request."""
        self._inflight.dec()
        if report.refused:
            self._rejected[report.model, report.refused].inc()
        labels = (report.route, report.method, str(report.status), report.model)
        self._requests[labels].inc()
        self._request_seconds[labels].observe(report.seconds)
        for stage, seconds in report.stages:
            self._stage_seconds[stage, report.model].observe(seconds)
        if report.status == 200 and report.items:
            self._items[report.model, report.version, report.task].inc(report.items)

    def batch_done(self, report: BatchReport) -> None:
        """Record a batch that ran."""
        labels = (report.model, report.version)
        self._batch_items[labels].observe(report.items)
        self._padding[labels].observe(report.padding_ratio)
        queue = self._stage_seconds["queue", report.model]
        for seconds in report.queue_seconds:
            queue.observe(seconds)
        self._stage_seconds["batch", report.model].observe(report.batch_seconds)
        self._stage_seconds["infer", report.model].observe(report.infer_seconds)

    def batch_failed(self, model: str, version: str) -> None:
        """Count a batch that failed."""
        self._batch_failures.labels(model, version).inc()

    def out_of_memory(self, model: str, version: str, device: str) -> None:
        """Count a batch that did not fit."""
        self._out_of_memory.labels(model, version, device).inc()

    def item_dropped(self, model: str, version: str, reason: str) -> None:
        """Count an item that was removed without inference."""
        self._dropped.labels(model, version, reason).inc()

    def items_shared(self, model: str, version: str, items: int) -> None:
        """Count items that use the result of an equal one."""
        self._shared.labels(model, version).inc(items)

    def cache_asked(self, model: str, version: str, hits: int, misses: int) -> None:
        """Count items that were found and not found in the answer cache."""
        self._cache_hits.labels(model, version).inc(hits)
        self._cache_misses.labels(model, version).inc(misses)

    def cache_sized(self, model: str, version: str, size_bytes: int) -> None:
        """Set the size of a cache; the first call sets its counters to 0."""
        self._cache_bytes.labels(model, version).set(size_bytes)
        self._cache_hits.labels(model, version)
        self._cache_misses.labels(model, version)

    def lane_busy(self, device: str, seconds: float) -> None:
        """Add to the time in which a device's lane was busy."""
        self._lane_busy[device,].inc(seconds)
        if device in self._lanes:
            self._lanes[device].add(seconds)

    def lane_died(self, device: str, error: BaseException) -> None:
        """Count a lane's restart."""
        self._lane_restarts.labels(device).inc()

    def model_added(self, model: str, version: str) -> None:
        """Set a version's counters to 0, so that Prometheus sees their first increase."""
        self._batch_failures.labels(model, version)
        self._shared.labels(model, version)
        for reason in REJECTION_REASONS:
            self._rejected[model, reason]
        for reason in DROP_REASONS:
            self._dropped.labels(model, version, reason)

    def model_placed(self, model: str, version: str, device: str) -> None:
        """Set the counter of batches that did not fit to 0."""
        self._out_of_memory.labels(model, version, device)

    def lane_added(self, device: str) -> None:
        """Set the counters of a device's lane to 0."""
        self._lane_busy[device,]
        self._lane_restarts.labels(device)
        self._lanes.setdefault(device, Utilization())

    def watch(
        self,
        models: Callable[[], Iterable[ModelState]],
        lanes: Callable[[], Iterable[tuple[str, bool]]],
        memory_limit_bytes: int | None,
    ) -> None:
        """Read the process's state at each scrape.

        Args:
            models: State of every version of every model.
            lanes: Device of every lane, and whether it is no longer restarted.
            memory_limit_bytes: The container's memory limit; None if there is none.
        """
        self.registry.register(StateCollector(models, lanes, memory_limit_bytes))

    def watch_devices(self, states: Callable[[], Iterable[DeviceState]]) -> None:
        """Read the GPUs' state from the driver at each scrape."""
        self.registry.register(DeviceCollector(states))


class StateCollector(Collector):
    """Gauges of the catalog's and the lanes' state; see `Metrics.watch`."""

    def __init__(
        self,
        models: Callable[[], Iterable[ModelState]],
        lanes: Callable[[], Iterable[tuple[str, bool]]],
        memory_limit_bytes: int | None,
    ) -> None:
        self._models = models
        self._lanes = lanes
        self._memory_limit_bytes = memory_limit_bytes

    def collect(self) -> Iterator[Metric]:
        """Return the gauges for the current state."""
        yield from self._collect_models()
        failed = GaugeMetricFamily(
            "kotae_lane_failed",
            "1 if the lane's thread died too often and is not restarted any more.",
            labels=("device",),
        )
        for device, value in self._lanes():
            failed.add_metric((device,), float(value))
        yield failed
        if self._memory_limit_bytes is not None:
            yield GaugeMetricFamily(
                "kotae_memory_limit_bytes",
                "Memory limit of the container.",
                value=float(self._memory_limit_bytes),
            )

    def _collect_models(self) -> Iterator[Metric]:
        labels = ("model", "version")
        info = GaugeMetricFamily(
            "kotae_model_info",
            "1 for each loaded version of a model.",
            labels=(*labels, "task", "device", "precision", "provider"),
        )
        ready = GaugeMetricFamily("kotae_model_ready", "1 if the version serves requests.", labels=labels)
        failed = GaugeMetricFamily(
            "kotae_model_check_failed",
            "1 for each version that failed to load, by the step that failed.",
            labels=(*labels, "reason"),
        )
        load = GaugeMetricFamily(
            "kotae_model_load_seconds", "Time to load, check and warm up the version.", labels=labels
        )
        error = GaugeMetricFamily(
            "kotae_golden_check_error",
            "Largest difference from PyTorch's outputs in the golden check.",
            labels=labels,
        )
        queue = GaugeMetricFamily("kotae_queue_items", "Items in the queue.", labels=labels)
        limit = GaugeMetricFamily(
            "kotae_queue_limit_items", "Maximum number of items in the queue.", labels=labels
        )
        wait = GaugeMetricFamily(
            "kotae_queue_predicted_wait_seconds",
            "Predicted time that a new item would wait in the queue; 0 if nothing is queued or running.",
            labels=labels,
        )
        for state in self._models():
            names = (state.model, state.version)
            info.add_metric((*names, state.task, state.device, state.precision, state.provider), 1)
            ready.add_metric(names, float(state.ready))
            if state.failed_check:
                failed.add_metric((*names, state.failed_check), 1)
            load.add_metric(names, state.load_seconds)
            if state.golden_check_error is not None:
                error.add_metric(names, state.golden_check_error)
            queue.add_metric(names, state.queue_items)
            limit.add_metric(names, state.queue_limit_items)
            wait.add_metric(names, state.predicted_wait_seconds)
        yield from (info, ready, failed, load, error, queue, limit, wait)
