"""`create_app(settings)` builds the application. Nothing happens at import.

A request passes, from the outside to the inside:

    RequestMiddleware ─▶ Authentication ─▶ TaskRoutes ─▶ task endpoint ─▶ InferenceCore
                                               └▶ FastAPI's router: models, probes, metrics, admin, document
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
from collections.abc import AsyncIterator, Iterator
from importlib.metadata import version

from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from service.backend import Backend, limits_of, open_backend
from service.engine.runtime.cpus import available_cpus
from service.engine.runtime.session import runtime_version
from service.http import errors, openapi
from service.http.admin import admin_router
from service.http.auth import Authentication, AuthenticationMiddleware, Keys, open_keys
from service.http.body_limits import BodyLimits
from service.http.early_refusal import EarlyRefusal
from service.http.health import health_router
from service.http.request_log import RequestLog, RequestMiddleware
from service.http.task_routes import TaskRoutes
from service.http.v1.detection import DetectionEndpoint
from service.http.v1.embeddings import EmbeddingsEndpoint
from service.http.v1.models import models_router
from service.http.v1.tasks import TaskEndpoint
from service.http.v1.transcriptions import TranscriptionsEndpoint
from service.inference.core import InferenceCore
from service.inference.decoding_pool import DecodingPool
from service.lifecycle import Lifecycle, memory_limit_bytes
from service.repository.catalog import Catalog
from service.settings import Settings
from service.tasks import TASKS
from service.telemetry.devices import this_process_devices
from service.telemetry.logs import log_level
from service.telemetry.metrics import Metrics, ModelState

_ENDPOINTS = {"object-detection": DetectionEndpoint, "text-embedding": EmbeddingsEndpoint}

_log = logging.getLogger(__name__)


def create_app(settings: Settings, metrics: Metrics | None = None, backend: Backend | None = None) -> FastAPI:
    """Build the application; models load in the background once its lifespan begins.

    Args:
        settings: Everything that an operator can set.
        metrics: Where to count; by default in this process.
        backend: What runs the models; by default this process.

    Returns:
        The application; `app.state` has its `lifecycle`, `catalog`, `lanes`, `operations_port`, and what the
        server uses, `early_refusal`, `count_refused_connection` and `count_unread_request`.

    Raises:
        StartFailed: The models folder or the device that was asked for is not there.
    """
    metrics = metrics or Metrics()
    backend = backend or open_backend(settings, metrics)
    keys = open_keys(settings)
    lifecycle = _lifecycle(settings, backend, metrics, keys)
    threads = settings.decode_threads or available_cpus()
    pool = DecodingPool(threads, lambda seconds: metrics.decoding_busy(seconds, threads))
    core = InferenceCore(
        backend.catalog, pool, limits_of(settings), lambda: not lifecycle.closed, backend.back
    )
    _watch_state(metrics, backend)

    app = FastAPI(
        title="Kotae",
        version=version("kotae"),
        summary="Image, speech and text models answered over HTTP.",
        lifespan=lambda _: _lifespan(settings, backend, lifecycle, pool),
        docs_url=None,
        redoc_url=None,
        responses=openapi.ANY_ERROR,
        dependencies=[
            Depends(HTTPBearer(auto_error=False, description="An API key, where the server has any."))
        ],
    )
    app.state.lifecycle = lifecycle
    app.state.catalog = backend.catalog
    app.state.lanes = backend.lanes
    app.state.operations_port = settings.operations_port
    app.state.count_refused_connection = lambda: metrics.refused_unread("connections")
    app.state.count_unread_request = lambda: metrics.refused_unread("event_loop")

    endpoints = _endpoints(settings, core)
    for endpoint in endpoints:
        openapi.add_endpoint(app, endpoint)
    app.include_router(models_router(backend.catalog))
    app.include_router(health_router(lifecycle, lambda: (metrics.render(), CONTENT_TYPE_LATEST)))
    app.include_router(admin_router(log_level, backend.set_level))
    openapi.add_docs_page(app)
    errors.install(app)

    by_path = {endpoint.path: endpoint for endpoint in endpoints}
    authentication = Authentication(keys, lambda: app.state.operations_port)
    log = RequestLog(metrics)
    app.state.early_refusal = EarlyRefusal(core, by_path, authentication, log, lambda: lifecycle.draining)
    # The last one added is the outermost.
    app.add_middleware(TaskRoutes, endpoints=by_path)
    app.add_middleware(AuthenticationMiddleware, authentication=authentication)
    app.add_middleware(
        RequestMiddleware, log=log, fixed_paths=_fixed_paths(app), is_draining=lambda: lifecycle.draining
    )
    return app


def _fixed_paths(app: FastAPI) -> frozenset[str]:
    paths = (getattr(route, "path", "{}") for route in app.routes)
    return frozenset(path for path in paths if "{" not in path)


def _endpoints(settings: Settings, core: InferenceCore) -> list[TaskEndpoint]:
    """Build an endpoint for every task, and for OpenAI's transcriptions."""
    limits = BodyLimits(
        max_body_bytes=settings.max_body_bytes,
        max_inflight_bytes=settings.max_inflight_bytes,
        body_timeout_seconds=settings.body_timeout_seconds,
    )
    most = settings.max_items_per_request
    endpoints = [_ENDPOINTS.get(task, TaskEndpoint)(task, core, limits, most) for task in TASKS]
    return [*endpoints, TranscriptionsEndpoint("speech-recognition", core, limits, most)]


def _lifecycle(settings: Settings, backend: Backend, metrics: Metrics, keys: Keys | None) -> Lifecycle:
    def every_heartbeat() -> None:
        if keys is not None:
            keys.reload_if_changed()
        metrics.heartbeat()
        backend.beat(not lifecycle.not_ready())

    lifecycle = Lifecycle(
        settings, backend.catalog, backend.lanes, metrics.event_loop_lag.observe, every_heartbeat
    )
    return lifecycle


@contextlib.asynccontextmanager
async def _lifespan(
    settings: Settings, backend: Backend, lifecycle: Lifecycle, pool: DecodingPool
) -> AsyncIterator[None]:
    versions = {name: version(name) for name in ("kotae", "fastapi", "uvicorn", "numpy", "pillow")}
    versions |= {"python": platform.python_version(), "onnxruntime": runtime_version()}
    described = {"settings": settings.model_dump(mode="json"), "versions": versions}
    _log.info("starting", extra={**described, **backend.described})
    await backend.begin()
    watch = asyncio.create_task(lifecycle.watch())
    yield
    watch.cancel()
    backend.catalog.close("the server is shutting down")
    backend.lanes.stop()
    pool.shutdown()


def _watch_state(metrics: Metrics, backend: Backend) -> None:
    """Let the metrics read the state of models, lanes and devices at each scrape."""
    metrics.watch(
        lambda: _model_states(backend.catalog),
        lambda: ((lane.device, lane.gave_up) for lane in backend.lanes.states()),
        memory_limit_bytes(),
    )
    metrics.watch_devices(this_process_devices().states)


def _model_states(catalog: Catalog) -> Iterator[ModelState]:
    for model in list(catalog.models.values()):
        for item in list(model.versions.values()):
            queue = item.queue
            yield ModelState(
                model=item.model,
                version=str(item.number),
                task=item.manifest.task,
                device=",".join(map(str, item.devices)),
                precision=item.variant.precision if item.variant else "",
                provider=item.provider,
                ready=item.state == "ready" and not (queue and queue.closed),
                failed_check=item.failed_check,
                load_seconds=item.load_seconds,
                golden_check_error=item.golden_check_error,
                queue_items=queue.queue_items if queue else 0,
                queue_limit_items=item.manifest.batching.max_queue_items,
                predicted_wait_seconds=queue.predicted_wait_seconds if queue else 0.0,
            )
        if not model.versions:
            check = "manifest" if catalog.loaded or model.manifest is None else None
            yield ModelState(model=model.name, failed_check=check)
