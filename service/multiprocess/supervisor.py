"""The process that an operator starts: opens the listening sockets, keeps one engine and N workers running.

It runs no model and handles no request, so that few errors can end it. It connects every worker with the
engine by a socket and two anonymous shared memories, which the kernel frees together with the processes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from service.errors import StartFailed
from service.http.server.listeners import open_listeners
from service.multiprocess import supervisor_channel as channel
from service.multiprocess.metrics_folder import metrics_folder
from service.multiprocess.supervisor_channel import Setup
from service.settings import Settings
from service.telemetry.logs import set_log_level

ENGINE = "engine"

_FIRST_PAUSE_SECONDS = 0.5  # before restarting a process that never became ready; doubles each time
_LONGEST_PAUSE_SECONDS = 30.0
_ENGINE_STOP_SECONDS = 10.0  # time limit of the engine's end

_ROOT = str(Path(__file__).parents[2])  # so that the processes import this package, whatever their folder

_log = logging.getLogger(__name__)


class Child:
    """One process of the service.

    Attributes:
        process: None between its end and the next start.
        socket: The supervisor's end of the channel.
        starts: How often it was started.
        failures: Ends in a row before it became ready.
        is_ready: Whether it has become ready.
        last_heartbeat: Time of its last message, in clock seconds.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.process: subprocess.Popen[bytes] | None = None
        self.socket: socket.socket | None = None
        self.starts = 0
        self.failures = 0
        self.is_ready = False
        self.last_heartbeat = 0.0

    def start(self, metrics_folder: Path) -> None:
        """Start the process, with its end of a new channel as standard input."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-u", "-P", "-m", "service.multiprocess", self.name]
        environment = os.environ | {
            "PROMETHEUS_MULTIPROC_DIR": str(metrics_folder),
            "PYTHONPATH": os.pathsep.join([_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        # A new session: Ctrl-C in a terminal reaches only the supervisor, which forwards it.
        self.process = subprocess.Popen(
            command, stdin=theirs.fileno(), env=environment, start_new_session=True
        )
        theirs.close()
        self.socket, self.is_ready, self.last_heartbeat = ours, False, time.monotonic()
        self.starts += 1

    def send(self, kind: str, text: str = "", descriptors: tuple[int, ...] = ()) -> None:
        """Send a message, if the process runs."""
        if self.socket is not None:
            channel.send(self.socket, kind, text, descriptors)

    def signal(self, number: int) -> None:
        """Send a signal, if the process runs."""
        if self.process is not None:
            self.process.send_signal(number)


class Supervisor:
    """Starts, connects, watches and stops the processes. Lives on its own event loop.

    Args:
        settings: Sent to every process; `port` may be 0, the listeners have the real one.
        listeners: The main listener, then that of the operations port if there is one.
        metrics_folder: An empty folder.
    """

    def __init__(self, settings: Settings, listeners: list[socket.socket], metrics_folder: Path) -> None:
        self._settings = settings
        self._listeners = listeners
        self._metrics_folder = metrics_folder
        self._counts = _shared_memory("kotae-counts", 4 * settings.http_workers)
        self._engine = Child(ENGINE)
        self._workers = [Child(f"http-{k}") for k in range(settings.http_workers)]
        self._children = [self._engine, *self._workers]
        self._is_stopping = False
        self._stopped = asyncio.Event()
        self._failure: str | None = None

    async def run(self) -> None:
        """Run until a signal has ended all processes.

        Raises:
            StartFailed: A process reports that it cannot start.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        for child in self._children:
            self._start(child)
        watch = asyncio.create_task(self._watch())
        await self._stopped.wait()
        watch.cancel()
        if self._failure is not None:
            raise StartFailed(self._failure)

    def _start(self, child: Child) -> None:
        """Start a process, and connect it with the processes that it works with."""
        if self._is_stopping:
            return
        setup = Setup(
            name=child.name,
            settings=self._settings.model_dump_json(),
            metrics_folder=str(self._metrics_folder),
            restarts=child.starts,
        )
        child.start(self._metrics_folder)
        assert child.socket is not None, "a started process has a socket"
        listeners = [] if child is self._engine else self._listeners
        channel.send_setup(child.socket, setup, self._counts, listeners)
        child.socket.setblocking(False)
        asyncio.get_running_loop().add_reader(child.socket, self._on_message, child)
        for worker in self._workers if child is self._engine else [child]:
            self._connect(worker)

    def _connect(self, worker: Child) -> None:
        """Connect a worker with the engine, if both run."""
        if worker.socket is None or self._engine.socket is None:
            return
        size = self._settings.http_worker_shared_memory_bytes
        worker_end, engine_end = socket.socketpair()
        memories = [_shared_memory(f"kotae-{worker.name}-{use}", size) for use in ("inputs", "outputs")]
        worker.send(channel.CONNECT, "", (worker_end.fileno(), *memories))
        self._engine.send(channel.CONNECT, "", (engine_end.fileno(), *memories))
        worker_end.close()
        engine_end.close()
        for memory in memories:
            os.close(memory)

    def _on_message(self, child: Child) -> None:
        assert child.socket is not None, "only an open socket is read"
        message = channel.receive(child.socket)
        child.last_heartbeat = time.monotonic()
        if message.kind == channel.READY:
            self._on_ready(child)
        elif message.kind == channel.LOG_LEVEL:
            self._set_log_level(message.text)
        elif message.kind == channel.FAILED and child.starts == 1 and not child.is_ready:
            self._failure = message.text
            self._stop(signal.SIGKILL)
        elif not message.kind:
            self._on_exit(child)

    def _on_ready(self, child: Child) -> None:
        was_ready, child.is_ready, child.failures = child.is_ready, True, 0
        if not was_ready and all(other.is_ready for other in self._children):
            _log.info("every process is ready")

    def _on_exit(self, child: Child) -> None:
        assert child.process is not None and child.socket is not None, "only a started process exits"
        asyncio.get_running_loop().remove_reader(child.socket)
        child.socket.close()
        code = child.process.wait()
        child.process = child.socket = None
        if self._is_stopping:
            self._stop_engine_after_workers()
            return
        pause = 0.0
        if not child.is_ready:
            pause = min(_FIRST_PAUSE_SECONDS * 2**child.failures, _LONGEST_PAUSE_SECONDS)
            child.failures += 1
        _log.error("%s ended with %d, restarting it", child.name, code, extra={"pause_seconds": pause})
        asyncio.get_running_loop().call_later(pause, self._start, child)

    def _set_log_level(self, level: str) -> None:
        set_log_level(level)
        self._settings = self._settings.model_copy(update={"log_level": level})
        for child in self._children:
            child.send(channel.LOG_LEVEL, level)

    async def _watch(self) -> None:
        """Kill processes that were ready and send no heartbeat any more."""
        settings = self._settings
        limit = settings.heartbeat_seconds + settings.event_loop_lag_limit_seconds
        while True:
            asleep = time.monotonic()
            await asyncio.sleep(settings.heartbeat_seconds)
            now = time.monotonic()
            for child in self._children:
                if now - asleep > limit:  # the whole machine was paused, and no process could send one
                    child.last_heartbeat = now
                silent = now - child.last_heartbeat
                if child.is_ready and child.process is not None and silent > limit:
                    _log.error("%s sent no heartbeat for %.1f s, killing it", child.name, silent)
                    child.signal(signal.SIGKILL)

    def _stop(self, number: int) -> None:
        """Forward a signal to the workers; the engine ends after the last of them."""
        self._is_stopping = True
        for listener in self._listeners:  # the workers have copies, and decide how long they accept
            listener.close()
        for worker in self._workers:
            worker.signal(number)
        self._stop_engine_after_workers()

    def _stop_engine_after_workers(self) -> None:
        if any(worker.process for worker in self._workers):
            return
        if self._engine.process is None:
            self._stopped.set()
            return
        self._engine.signal(signal.SIGTERM)
        loop = asyncio.get_running_loop()
        loop.call_later(_ENGINE_STOP_SECONDS, self._engine.signal, signal.SIGKILL)


def supervise(settings: Settings) -> None:
    """Serve with several processes until a signal ends them.

    Raises:
        StartFailed: The address cannot be opened, or a process reports that it cannot start.
    """
    if not hasattr(os, "memfd_create"):
        raise StartFailed("http_workers needs Linux, for anonymous shared memory (memfd)")
    listeners = open_listeners(settings)
    with metrics_folder() as folder:
        asyncio.run(_run(settings, listeners, folder))
    _log.info("ended")


async def _run(settings: Settings, listeners: list[socket.socket], folder: Path) -> None:
    await Supervisor(settings, listeners, folder).run()


def _shared_memory(name: str, size: int) -> int:
    """Return the file descriptor of a new anonymous shared memory of `size` bytes."""
    descriptor = os.memfd_create(name)
    os.truncate(descriptor, size)
    return descriptor
