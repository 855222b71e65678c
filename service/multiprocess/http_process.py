"""An HTTP worker process: the application of a single process, with an engine in another process."""

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
        StartFailed: A file or folder of the settings does not exist.
    """
    setup = channel.setup
    metrics = SharedMetrics(setup.name, Path(setup.metrics_folder), setup.restarts)
    settings = worker_settings(settings)
    app = create_app(settings, metrics, remote_backend(settings, channel))
    FairServer.counts = ConnectionCounts(channel.counts, int(setup.name.partition("-")[2]))
    serve(app, settings, channel.listeners, FairServer)


def remote_backend(settings: Settings, channel: SupervisorChannel) -> Backend:
    """Return a backend whose models run in the engine process.

    Raises:
        StartFailed: The models folder or the overrides file does not exist.
    """
    engine = RemoteEngine(settings.engine_restart_timeout_seconds)
    catalog = RemoteCatalog(settings.models, read_overrides(settings.overrides), engine)
    lanes = RemoteLanes()
    mirror = EngineMirror(engine, catalog, lanes)

    async def begin() -> None:
        mirror.start()
        channel.listen(engine.connect, set_log_level)
        channel.heartbeat(ready=False)
        if channel.setup.restarts:  # until it can serve, the other workers accept the connections
            await engine.wait_until_ready()

    return Backend(
        catalog=catalog,
        lanes=lanes,
        begin=begin,
        back=engine.wait_until_ready,
        beat=lambda ready: channel.heartbeat(ready=ready),
        set_level=channel.set_log_level,
    )


def worker_settings(settings: Settings) -> Settings:
    """Return the settings of one worker: its share of the decoding threads and of the bytes in flight."""
    workers = settings.http_workers
    inflight_bytes = max(settings.max_body_bytes, settings.max_inflight_bytes // workers)
    threads = settings.decode_threads or max(1, available_cpus() // workers)
    connections = max(1, settings.max_connections // workers)
    return settings.model_copy(
        update={
            "decode_threads": threads,
            "max_inflight_bytes": inflight_bytes,
            "max_connections": connections,
        }
    )
