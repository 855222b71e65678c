"""A worker's process: the very application of a single process, before an engine that is elsewhere."""

from __future__ import annotations

from pathlib import Path

from service.app import create_app
from service.backend import Backend
from service.engine.runtime.cpus import available_cpus
from service.http.server.drain import serve
from service.multiprocess.acceptor import ConnectionCounts, FairServer
from service.multiprocess.engine_connection import RemoteEngine
from service.multiprocess.engine_mirror import EngineMirror, RemoteCatalog, RemoteLanes
from service.multiprocess.supervisor_channel import SupervisorChannel
from service.repository.overrides import read_overrides
from service.settings import Settings
from service.telemetry.logs import set_log_level
from service.telemetry.shared_metrics import SharedMetrics


def serve_http(settings: Settings, channel: SupervisorChannel) -> None:
    """Serve until a signal ends the process.

    Raises:
        StartFailed: What the settings name is not there.
    """
    setup = channel.setup
    metrics = SharedMetrics(setup.name, Path(setup.metrics_folder), setup.restarts)
    share = share_of(settings)
    app = create_app(share, metrics, remote_backend(share, metrics, channel))
    FairServer.counts = ConnectionCounts(channel.counts, int(setup.name.partition("-")[2]))
    serve(app, share, channel.listeners, FairServer)


def remote_backend(settings: Settings, metrics: SharedMetrics, channel: SupervisorChannel) -> Backend:
    """Build what stands for the engine.

    Raises:
        StartFailed: The models folder or the file of overrides is not there.
    """
    engine = RemoteEngine(settings.engine_restart_timeout_seconds)
    catalog = RemoteCatalog(settings.models, read_overrides(settings.overrides), engine)
    lanes = RemoteLanes()
    mirror = EngineMirror(engine, catalog, lanes)

    async def begin() -> None:
        mirror.begin()
        channel.watch(engine.connect, set_log_level)
        channel.beat(ready=False)
        if channel.setup.restarts:  # the others accept for as long as this one could only refuse
            await engine.back()

    def beat(ready: bool) -> None:
        channel.beat(ready=ready)

    return Backend(
        catalog=catalog,
        lanes=lanes,
        begin=begin,
        back=engine.back,
        beat=beat,
        set_level=channel.set_level,
    )


def share_of(settings: Settings) -> Settings:
    """Give the part of the process's means that one worker has: threads, and bytes of bodies."""
    workers = settings.http_workers
    held = max(settings.max_body_bytes, settings.max_inflight_bytes // workers)
    threads = settings.decode_threads or max(1, available_cpus() // workers)
    return settings.model_copy(update={"decode_threads": threads, "max_inflight_bytes": held})
