"""`create_app(settings)`: wires everything; nothing happens at import."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
from collections.abc import AsyncIterator, Iterator, Mapping
from importlib.metadata import version

from fastapi import FastAPI
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.routing import BaseRoute
from starlette.types import Scope

from service.backend import Backend, limits_of, open_backend
from service.engine.runtime.cpus import available_cpus
from service.engine.runtime.session import runtime_version
from service.http import errors, openapi
from service.http.admin import admin_router
from service.http.auth import Gate, Keys, open_keys
from service.http.body_limits import BodyLimits
from service.http.health import health_router
from service.http.request_middleware import RequestMiddleware, RequestObserver, Surroundings, identify
from service.http.server.turnstile import Turnstile
from service.http.task_routes import Handler, HotRoutes
from service.http.v1.detection import DetectionEndpoint
from service.http.v1.embeddings import EmbeddingsEndpoint
from service.http.v1.models import models_router
from service.http.v1.speech import SpeechEndpoint
from service.http.v1.tasks import Dependencies, TaskEndpoint
from service.http.v1.transcriptions import TranscriptionsEndpoint
from service.inference.backlog import Backlog
from service.inference.decoding_pool import DecodingPool
from service.inference.refusals import Refusals
from service.lifecycle import Lifecycle, memory_limit_bytes
from service.repository.catalog import Catalog
from service.settings import Settings
from service.tasks import TASKS
from service.telemetry.devices import this_process_devices
from service.telemetry.logs import log_level
from service.telemetry.metrics import Metrics, ModelState

_log = logging.getLogger(__name__)


def create_app(settings: Settings, metrics: Metrics | None = None, backend: Backend | None = None) -> FastAPI:
    """Build the application; models load in the background once its lifespan begins.

    Args:
        settings: Everything that an operator can set.
        metrics: Where to count; by default in this process.
        backend: What runs the models; by default this process.

    Returns:
        The application; `app.state` has its `lifecycle`, `catalog`, `lanes` and the `operations_port`.

    Raises:
        StartFailed: The models folder or the device that was asked for is not there.
    """
    metrics = metrics or Metrics()
    backend = backend or open_backend(settings, metrics)
    catalog, lanes = backend.catalog, backend.lanes
    metrics.watch(
        lambda: _model_states(catalog),
        lambda: ((lane.device, lane.gave_up) for lane in lanes.states()),
        memory_limit_bytes(),
    )
    metrics.watch_devices(this_process_devices().states)
    keys = open_keys(settings)

    def every_heartbeat() -> None:
        if keys is not None:
            keys.reload_if_changed()
        metrics.heartbeat()
        backend.beat(not lifecycle.not_ready())

    lifecycle = Lifecycle(settings, catalog, lanes, metrics.event_loop_lag.observe, every_heartbeat)
    decoding_pool = DecodingPool(settings.decode_threads or available_cpus())

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        versions = {name: version(name) for name in ("kotae", "fastapi", "uvicorn", "numpy", "pillow")}
        versions |= {"python": platform.python_version(), "onnxruntime": runtime_version()}
        told = {"settings": settings.model_dump(mode="json"), "versions": versions}
        _log.info("starting", extra={**told, **backend.described})
        await backend.begin()
        watch = asyncio.create_task(lifecycle.watch())
        yield
        watch.cancel()
        catalog.close("the server is shutting down")
        lanes.stop()
        decoding_pool.shutdown()

    app = FastAPI(
        title="Kotae",
        version=version("kotae"),
        summary="Image, speech and text models answered over HTTP.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.lifecycle = lifecycle
    app.state.catalog = catalog
    app.state.lanes = lanes
    app.state.operations_port = settings.operations_port
    errors.install(app)
    turnstile = app.state.turnstile = Turnstile(
        lambda refused: layers.note_refused(refused),  # noqa: PLW0108 # they are not built yet
        identify,
        is_draining=lambda: lifecycle.draining,
    )
    dependencies = Dependencies(
        catalog=catalog,
        settings=settings,
        limits=limits_of(settings),
        door=BodyLimits(
            max_body_bytes=settings.max_body_bytes,
            max_inflight_bytes=settings.max_inflight_bytes,
            body_timeout_seconds=settings.body_timeout_seconds,
        ),
        backlog=Backlog(),
        refusals=Refusals(),
        decoding_pool=decoding_pool,
        turnstile=turnstile,
        is_open=lambda: not lifecycle.closed,
    )
    handlers: dict[str, Handler] = {}
    endpoints = [_ENDPOINTS.get(name, TaskEndpoint)(name, dependencies) for name in TASKS]
    for endpoint in (*endpoints, TranscriptionsEndpoint("speech-recognition", dependencies)):
        handlers[endpoint.path] = endpoint.handle
        app.add_route(endpoint.path, endpoint.handle, methods=["POST"])
    app.include_router(models_router(catalog))
    app.include_router(health_router(lifecycle, lambda: (metrics.render(), CONTENT_TYPE_LATEST)))
    app.include_router(admin_router(log_level, backend.set_level))
    openapi.install(app, tuple(TASKS))
    hot = HotRoutes(app.build_middleware_stack(), handlers, backend.back)
    layers = app.middleware_stack = _layers(app, hot, keys, metrics, lifecycle)
    return app


_ENDPOINTS = {
    "object-detection": DetectionEndpoint,
    "speech-recognition": SpeechEndpoint,
    "text-embedding": EmbeddingsEndpoint,
}


def _layers(
    app: FastAPI,
    hot: HotRoutes,
    keys: Keys | None,
    observer: RequestObserver,
    lifecycle: Lifecycle,
) -> RequestMiddleware:
    """Put our layers around the framework's: request, gate, busy routes, everything else."""
    templates = dict(_templates(app.routes))
    gate = Gate(hot, keys, operations_port=lambda: app.state.operations_port)
    surroundings = Surroundings(
        observer=observer,
        route_of=lambda scope: _route_of(scope, templates),
        is_draining=lambda: lifecycle.draining,
        render_unexpected=errors.render_unexpected,
    )
    return RequestMiddleware(gate, surroundings)


def _route_of(scope: Scope, templates: Mapping[object, str]) -> str | None:
    """Name the matched route: FastAPI's own say so themselves, plain ones are found by their endpoint."""
    path: str | None = getattr(scope.get("route"), "path", None)
    return path or templates.get(scope.get("endpoint"))


def _templates(routes: list[BaseRoute]) -> Iterator[tuple[object, str]]:
    for route in routes:
        endpoint, path = getattr(route, "endpoint", None), getattr(route, "path", None)
        if endpoint is not None and path is not None:
            yield endpoint, path


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
