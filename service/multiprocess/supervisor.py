"""The process that an operator starts: it holds the listeners, and keeps one engine and N workers alive.

It runs no model and reads no request, so it has little to die of. It joins every worker with the engine by a
socket and two pieces of memory without a name, which vanish with those who hold them.
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

_FIRST_PAUSE_SECONDS = 0.5  # before a process that never got ready is started again; doubles each time
_LONGEST_PAUSE_SECONDS = 30.0
_ENGINE_END_SECONDS = 10.0  # how long the engine may take to end

_ROOT = str(Path(__file__).parents[2])  # of our own package, whatever lies in the working directory

_log = logging.getLogger(__name__)


class Child:
    """One process.

    Attributes:
        process: None between a death and the next start.
        line: Our end of its channel.
        starts: How often it was started.
        failures: Deaths in a row before it got ready.
        is_ready: Whether it has said so.
        last_sign: When it last gave a sign of life, in clock seconds.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.process: subprocess.Popen[bytes] | None = None
        self.line: socket.socket | None = None
        self.starts = 0
        self.failures = 0
        self.is_ready = False
        self.last_sign = 0.0

    def send(self, word: str, text: str = "", descriptors: tuple[int, ...] = ()) -> None:
        """Send a message, if there is a process to send it to."""
        if self.line is not None:
            channel.send(self.line, word, text, descriptors)

    def signal(self, number: int) -> None:
        """Send a signal, if there is a process to send it to."""
        if self.process is not None:
            self.process.send_signal(number)


class Supervisor:
    """Starts, joins, watches and ends the processes. Lives on an event loop of its own.

    Args:
        settings: Passed on to every process; `port` may be 0, the listeners know better.
        listeners: The main one first, then the operations port's if there is one.
        metrics_folder: An empty folder.
    """

    def __init__(self, settings: Settings, listeners: list[socket.socket], metrics_folder: Path) -> None:
        self._settings = settings
        self._listeners = listeners
        self._metrics_folder = metrics_folder
        self._counts = _memory("kotae-counts", 4 * settings.http_workers)
        self._engine = Child(ENGINE)
        self._workers = [Child(f"http-{k}") for k in range(settings.http_workers)]
        self._stopping = False
        self._ended = asyncio.Event()
        self._failure: str | None = None

    async def run(self) -> None:
        """Run until a signal has ended everything.

        Raises:
            StartFailed: A process says that it cannot start as it was asked to.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        for child in (self._engine, *self._workers):
            self._start(child)
        watch = asyncio.create_task(self._watch())
        await self._ended.wait()
        watch.cancel()
        if self._failure is not None:
            raise StartFailed(self._failure)

    def _start(self, child: Child) -> None:
        """Start a process and join it with those that it works with."""
        if self._stopping:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-u", "-P", "-m", "service.multiprocess", child.name]
        environment = os.environ | {
            "PROMETHEUS_MULTIPROC_DIR": str(self._metrics_folder),
            "PYTHONPATH": os.pathsep.join([_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        # A session of its own: Ctrl-C in a terminal is for the supervisor, which passes it on.
        child.process = subprocess.Popen(
            command, stdin=theirs.fileno(), env=environment, start_new_session=True
        )
        theirs.close()
        child.line, child.is_ready, child.last_sign = ours, False, time.monotonic()
        setup = Setup(
            name=child.name,
            settings=self._settings.model_dump_json(),
            metrics_folder=str(self._metrics_folder),
            restarts=child.starts,
        )
        child.starts += 1
        listeners = [] if child is self._engine else self._listeners
        channel.send_setup(ours, setup, self._counts, listeners)
        ours.setblocking(False)
        asyncio.get_running_loop().add_reader(ours, self._on_message, child)
        for worker in self._workers if child is self._engine else [child]:
            self._join(worker)

    def _join(self, worker: Child) -> None:
        """Give a worker and the engine a connection."""
        if worker.line is None or self._engine.line is None:
            return
        size = self._settings.http_worker_shared_memory_bytes
        near, far = socket.socketpair()
        memories = [_memory(f"kotae-{worker.name}-{use}", size) for use in ("inputs", "outputs")]
        worker.send(channel.LINK, "", (near.fileno(), *memories))
        self._engine.send(channel.LINK, "", (far.fileno(), *memories))
        near.close()
        far.close()
        for memory in memories:
            os.close(memory)

    def _on_message(self, child: Child) -> None:
        assert child.line is not None, "only a line that is there is read"
        message = channel.receive(child.line)
        child.last_sign = time.monotonic()
        if message.word == channel.READY:
            self._on_ready(child)
        elif message.word == channel.LEVEL:
            self._set_level(message.text)
        elif message.word == channel.FAILED and child.starts == 1 and not child.is_ready:
            self._failure = message.text
            self._stop(signal.SIGKILL)
        elif not message.word:
            self._on_death(child)

    def _on_ready(self, child: Child) -> None:
        was_ready, child.is_ready, child.failures = child.is_ready, True, 0
        if not was_ready and all(other.is_ready for other in (self._engine, *self._workers)):
            _log.info("every process is ready")

    def _on_death(self, child: Child) -> None:
        assert child.process is not None and child.line is not None, "only what lived dies"
        asyncio.get_running_loop().remove_reader(child.line)
        child.line.close()
        code = child.process.wait()
        child.process = child.line = None
        if self._stopping:
            self._go_on_stopping()
            return
        pause = 0.0
        if not child.is_ready:
            pause = min(_FIRST_PAUSE_SECONDS * 2**child.failures, _LONGEST_PAUSE_SECONDS)
            child.failures += 1
        _log.error("%s ended with %d, starting it again", child.name, code, extra={"pause_seconds": pause})
        asyncio.get_running_loop().call_later(pause, self._start, child)

    def _set_level(self, level: str) -> None:
        set_log_level(level)
        self._settings = self._settings.model_copy(update={"log_level": level})
        for child in (self._engine, *self._workers):
            child.send(channel.LEVEL, level)

    async def _watch(self) -> None:
        """Kill a process that was ready and gives no sign of life any more."""
        settings = self._settings
        limit = settings.heartbeat_seconds + settings.event_loop_lag_limit_seconds
        while True:
            asleep = time.monotonic()
            await asyncio.sleep(settings.heartbeat_seconds)
            now = time.monotonic()
            if now - asleep > limit:  # the whole machine stood still, and nobody could give a sign
                self._forgive(now)
            for child in (self._engine, *self._workers):
                silent = now - child.last_sign
                if child.is_ready and child.process is not None and silent > limit:
                    _log.error("%s has been silent for %.1f s, killing it", child.name, silent)
                    child.signal(signal.SIGKILL)

    def _forgive(self, now: float) -> None:
        for child in (self._engine, *self._workers):
            child.last_sign = now

    def _stop(self, number: int) -> None:
        """Pass a signal on to the workers; the engine ends after the last of them."""
        self._stopping = True
        for listener in self._listeners:  # the workers have theirs, and decide how long to accept
            listener.close()
        for worker in self._workers:
            worker.signal(number)
        self._go_on_stopping()

    def _go_on_stopping(self) -> None:
        if any(worker.process for worker in self._workers):
            return
        if self._engine.process is None:
            self._ended.set()
            return
        self._engine.signal(signal.SIGTERM)
        loop = asyncio.get_running_loop()
        loop.call_later(_ENGINE_END_SECONDS, self._engine.signal, signal.SIGKILL)


def supervise(settings: Settings) -> None:
    """Serve with several processes until a signal ends them.

    Raises:
        StartFailed: The address cannot be listened on, or a process cannot start as it was asked to.
    """
    if not hasattr(os, "memfd_create"):
        raise StartFailed("http_workers needs Linux: the processes share memory that has no name")
    listeners = open_listeners(settings)
    with metrics_folder() as folder:
        asyncio.run(_run(settings, listeners, folder))
    _log.info("ended")


async def _run(settings: Settings, listeners: list[socket.socket], folder: Path) -> None:
    await Supervisor(settings, listeners, folder).run()


def _memory(name: str, size: int) -> int:
    descriptor = os.memfd_create(name)
    os.truncate(descriptor, size)
    return descriptor
