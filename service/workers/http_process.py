"""A worker's process: the very application of a single process, before an engine that is elsewhere."""

from __future__ import annotations

from pathlib import Path

from service.app import create_app
from service.backend import Backend
from service.engine.cpus import available_cpus
from service.overrides import read_overrides
from service.server import serve
from service.settings import Settings
from service.telemetry.logs import set_log_level
from service.telemetry.shared import SharedMetrics
from service.workers.acceptor import Census, FairServer
from service.workers.lifeline import Lifeline
from service.workers.mirror import Mirror, RemoteCatalog, RemoteLanes
from service.workers.remote import RemoteEngine


def serve_http(settings: Settings, lifeline: Lifeline) -> None:
    """Serve until a signal ends the process.

    Raises:
        StartFailed: What the settings name is not there.
    """
    setup = lifeline.setup
    metrics = SharedMetrics(setup.name, Path(setup.metrics_folder), setup.restarts)
    share = share_of(settings)
    app = create_app(share, metrics, remote_backend(share, metrics, lifeline))
    FairServer.census = Census(lifeline.census, int(setup.name.partition("-")[2]))
    serve(app, share, lifeline.listeners, FairServer)


def remote_backend(settings: Settings, metrics: SharedMetrics, lifeline: Lifeline) -> Backend:
    """Build what stands for the engine.

    Raises:
        StartFailed: The models folder or the file of overrides is not there.
    """
    engine = RemoteEngine(settings.restart_patience_seconds)
    catalog = RemoteCatalog(settings.models, read_overrides(settings.overrides), engine)
    lanes = RemoteLanes()
    mirror = Mirror(engine, catalog, lanes)

    async def begin() -> None:
        mirror.begin()
        lifeline.watch(engine.connect, set_log_level)
        lifeline.beat(ready=False)
        if lifeline.setup.restarts:  # the others accept for as long as this one could only refuse
            await engine.back()

    def beat(ready: bool) -> None:
        metrics.watch_process()
        lifeline.beat(ready=ready)

    return Backend(
        catalog=catalog,
        lanes=lanes,
        begin=begin,
        back=engine.back,
        beat=beat,
        set_level=lifeline.set_level,
    )


def share_of(settings: Settings) -> Settings:
    """Give the part of the process's means that one worker has: threads, and bytes of bodies."""
    workers = settings.http_workers
    held = max(settings.max_body_bytes, settings.max_inflight_bytes // workers)
    threads = settings.decode_threads or max(1, available_cpus() // workers)
    return settings.model_copy(update={"decode_threads": threads, "max_inflight_bytes": held})
