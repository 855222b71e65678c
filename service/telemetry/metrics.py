"""Prometheus metrics: their names, labels and buckets, all in one place.

Recorded from two places only: the HTTP middleware (`request_done`) and the engine (this class is its
`Observer`). Gauges that mirror the catalog's state are read at the scrape, by `StateCollector`.
"""

from __future__ import annotations

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

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_STAGE_SECONDS = (0.00005, 0.0001, 0.00025, 0.0005, *_SECONDS)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
REFUSALS = ("door", "decode", "deadline", "queue_full", "permits", "bytes")
DROPS = ("expired", "gone", "failed_sibling", "shutdown")
_RATIOS = (1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 4.0, 8.0)


@dataclass(slots=True)  # not frozen: that makes it three times as slow to build, once a request
class RequestReport:
    """One finished HTTP request.

    Attributes:
        route: The route's template; one shared value for unmatched paths.
        stages: Seconds by stage, for the stages that the HTTP side owns.
        refused: Why it was refused at once, or empty.
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
    """What the gauges say of one version of a model; of a model without any, all but its name is empty."""

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
    """A metric's children by the values of their labels: the library's own way to find one is slow."""

    def __init__(self, metric: _AnyMetric) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, labels: tuple[str, ...]) -> _AnyMetric:
        child = self[labels] = self._metric.labels(*labels)
        return child


class Metrics(Observer):
    """All metrics, in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # nobody asks for these second series
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        version_labels = ("model", "version")
        self._requests = _Children(
            Counter(
                "kotae_requests",
                "HTTP requests, by outcome; status 499 is a client that hung up.",
                ("route", "method", "status", "model"),
                registry=registry,
            )
        )
        self._request_seconds = _Children(
            Histogram(
                "kotae_request_duration_seconds",
                "Time from a request's first byte to its answer.",
                ("route", "method", "status", "model"),
                buckets=_SECONDS,
                registry=registry,
            )
        )
        self._stage_seconds = _Children(
            Histogram(
                "kotae_stage_duration_seconds",
                "Time of one stage: decode and encode by request, queue by item, batch and infer by batch.",
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
                "Padded cost of a batch over its real cost.",
                version_labels,
                buckets=_RATIOS,
                registry=registry,
            )
        )
        self._inflight = Gauge(
            "kotae_inflight_requests",
            "HTTP requests being worked on.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._process_restarts = Counter(
            "kotae_process_restarts",
            "Processes started in the place of one that died; only with HTTP workers.",
            ("process",),
            registry=registry,
        )
        for process in ("engine", "http"):
            self.process_restarted(process, 0)
        self._rejected = _Children(
            Counter("kotae_rejected", "Requests refused at once.", ("model", "reason"), registry=registry)
        )
        self._dropped = Counter(
            "kotae_dropped_items",
            "Items that left the queue without running.",
            (*version_labels, "reason"),
            registry=registry,
        )
        self._shared = Counter(
            "kotae_shared_items",
            "Items that got the answer of an equal one that waited or ran.",
            version_labels,
            registry=registry,
        )
        self._cache_hits = Counter(
            "kotae_answer_cache_hits",
            "Items answered from the cache of answers; only of models that have one.",
            version_labels,
            registry=registry,
        )
        self._cache_misses = Counter(
            "kotae_answer_cache_misses",
            "Items that were not in the cache of answers; only of models that have one.",
            version_labels,
            registry=registry,
        )
        self._cache_bytes = Gauge(
            "kotae_answer_cache_bytes",
            "What the cache of answers takes; only of models that have one.",
            version_labels,
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._batch_failures = Counter(
            "kotae_batch_failures",
            "Runs that raised or gave wrong outputs.",
            version_labels,
            registry=registry,
        )
        self._out_of_memory = Counter(
            "kotae_out_of_memory",
            "Batches that did not fit the device's memory; they are run in halves.",
            (*version_labels, "device"),
            registry=registry,
        )
        self._lane_busy = _Children(
            Counter(
                "kotae_lane_busy_seconds",
                "Time that a lane spent on batches.",
                ("device",),
                registry=registry,
            )
        )
        self._lane_restarts = Counter(
            "kotae_lane_restarts", "Deaths of a lane's thread.", ("device",), registry=registry
        )
        self.event_loop_lag = Histogram(
            "kotae_event_loop_lag_seconds",
            "How late the event loop woke up.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._log_lines_dropped = Counter(
            "kotae_log_lines_dropped",
            "Log lines dropped because standard output was not read quickly enough.",
            registry=registry,
        )

    def render(self) -> bytes:
        """Return all metrics in the text format."""
        self.count_dropped_log_lines()
        return generate_latest(self.registry)

    def count_dropped_log_lines(self) -> None:
        """Add the log lines that this process dropped since the last call."""
        self._log_lines_dropped.inc(take_dropped_lines())

    def process_restarted(self, process: str, times: int = 1) -> None:
        """Count starts of `engine` or `http` processes in the place of dead ones."""
        self._process_restarts.labels(process).inc(times)

    def request_started(self) -> None:
        """Count a request as being worked on."""
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
        """Record a run."""
        labels = (report.model, report.version)
        self._batch_items[labels].observe(report.items)
        self._padding[labels].observe(report.padding_ratio)
        queue = self._stage_seconds["queue", report.model]
        for seconds in report.queue_seconds:
            queue.observe(seconds)
        self._stage_seconds["batch", report.model].observe(report.batch_seconds)
        self._stage_seconds["infer", report.model].observe(report.infer_seconds)

    def batch_failed(self, model: str, version: str) -> None:
        """Count a failed run."""
        self._batch_failures.labels(model, version).inc()

    def out_of_memory(self, model: str, version: str, device: str) -> None:
        """Count a batch that did not fit."""
        self._out_of_memory.labels(model, version, device).inc()

    def item_dropped(self, model: str, version: str, reason: str) -> None:
        """Count an item that did not run."""
        self._dropped.labels(model, version, reason).inc()

    def items_shared(self, model: str, version: str, items: int) -> None:
        """Count items that follow an equal one."""
        self._shared.labels(model, version).inc(items)

    def cache_asked(self, model: str, version: str, hits: int, misses: int) -> None:
        """Count items by whether their answer was kept."""
        self._cache_hits.labels(model, version).inc(hits)
        self._cache_misses.labels(model, version).inc(misses)

    def cache_sized(self, model: str, version: str, size_bytes: int) -> None:
        """Note what a cache takes; the first time, begin its counters at 0."""
        self._cache_bytes.labels(model, version).set(size_bytes)
        self._cache_hits.labels(model, version)
        self._cache_misses.labels(model, version)

    def lane_busy(self, device: str, seconds: float) -> None:
        """Add to a lane's busy time."""
        self._lane_busy[device,].inc(seconds)

    def lane_died(self, device: str, error: BaseException) -> None:
        """Count a lane's death."""
        self._lane_restarts.labels(device).inc()

    def model_added(self, model: str, version: str) -> None:
        """Begin a version's counters at 0, so that their first increase can be seen."""
        self._batch_failures.labels(model, version)
        self._shared.labels(model, version)
        for reason in REFUSALS:
            self._rejected[model, reason]
        for reason in DROPS:
            self._dropped.labels(model, version, reason)

    def model_placed(self, model: str, version: str, device: str) -> None:
        """Begin the counter of what did not fit at 0."""
        self._out_of_memory.labels(model, version, device)

    def lane_added(self, device: str) -> None:
        """Begin a lane's counters at 0."""
        self._lane_busy[device,]
        self._lane_restarts.labels(device)

    def watch(
        self,
        models: Callable[[], Iterable[ModelState]],
        lanes: Callable[[], Iterable[tuple[str, bool]]],
        memory_limit_bytes: int | None,
    ) -> None:
        """Read the process's state at every scrape.

        Args:
            models: Every version of every model.
            lanes: Every lane's device, and whether it gave up.
            memory_limit_bytes: The container's limit; None where there is none.
        """
        self.registry.register(StateCollector(models, lanes, memory_limit_bytes))

    def watch_devices(self, states: Callable[[], Iterable[DeviceState]]) -> None:
        """Ask the GPUs' driver at every scrape."""
        self.registry.register(DeviceCollector(states))


class StateCollector(Collector):
    """Gauges that mirror the catalog and the lanes; see `Metrics.watch`."""

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
        """Build the gauges from the state as it is now."""
        yield from self._collect_models()
        gave_up = GaugeMetricFamily(
            "kotae_lane_gave_up", "1 where a lane died too often to be restarted.", labels=("device",)
        )
        for device, value in self._lanes():
            gave_up.add_metric((device,), float(value))
        yield gave_up
        if self._memory_limit_bytes is not None:
            yield GaugeMetricFamily(
                "kotae_memory_limit_bytes",
                "Memory that the container may use.",
                value=float(self._memory_limit_bytes),
            )

    def _collect_models(self) -> Iterator[Metric]:
        labels = ("model", "version")
        info = GaugeMetricFamily(
            "kotae_model_info",
            "1 for each loaded version of a model.",
            labels=(*labels, "task", "device", "precision", "provider"),
        )
        ready = GaugeMetricFamily("kotae_model_ready", "1 where the version answers.", labels=labels)
        failed = GaugeMetricFamily(
            "kotae_model_check_failed",
            "1 for each version that failed, by the step that it failed at.",
            labels=(*labels, "reason"),
        )
        load = GaugeMetricFamily("kotae_model_load_seconds", "Time to load, check and warm.", labels=labels)
        error = GaugeMetricFamily(
            "kotae_golden_check_error", "Largest difference from PyTorch in the golden check.", labels=labels
        )
        queue = GaugeMetricFamily("kotae_queue_items", "Items that wait.", labels=labels)
        limit = GaugeMetricFamily("kotae_queue_limit_items", "Most items that may wait.", labels=labels)
        wait = GaugeMetricFamily(
            "kotae_queue_predicted_wait_seconds", "Wait predicted for a newcomer.", labels=labels
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
