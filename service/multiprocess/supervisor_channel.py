"""The socket between the supervisor and each of its processes: heartbeats, connections, the log level.

A message is a kind and a text, and may carry file descriptors. The supervisor's first message has the
settings and, as descriptors, the connection counts and the listening sockets. The kernel kills a process
whose supervisor has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from service.multiprocess.token_socket import ConnectionDescriptors

SETUP, CONNECT, LOG_LEVEL = "setup", "connect", "log_level"  # from the supervisor; LOG_LEVEL also to it
ALIVE, READY, FAILED = "alive", "ready", "failed"  # to the supervisor

_MAX_BYTES = 2**16
_MAX_DESCRIPTORS = 8
_PR_SET_PDEATHSIG = 1


class Message(NamedTuple):
    """One message; an empty kind means that the other side has closed the socket."""

    kind: str
    text: str
    descriptors: list[int]


@dataclass(frozen=True, slots=True)
class Setup:
    """First message to a process.

    Attributes:
        name: `engine`, or `http-0`, `http-1`, …
        settings: The settings as JSON.
        metrics_folder: Folder of the metrics files of all processes.
        restarts: How often the process was restarted.
    """

    name: str
    settings: str
    metrics_folder: str
    restarts: int


def send(end: socket.socket, kind: str, text: str = "", descriptors: tuple[int, ...] = ()) -> None:
    """Send a message; it is lost if the other side is gone or does not read."""
    with contextlib.suppress(OSError):
        socket.send_fds(end, [f"{kind} {text}".encode()], descriptors)


def receive(end: socket.socket) -> Message:
    """Return the next message."""
    try:
        received = socket.recv_fds(end, _MAX_BYTES, _MAX_DESCRIPTORS)
    except ConnectionResetError:
        # Raised once if the other side ended with unread messages of ours; its own last message follows.
        received = socket.recv_fds(end, _MAX_BYTES, _MAX_DESCRIPTORS)
    kind, _, text = received[0].decode().partition(" ")
    return Message(kind, text, received[1])


def send_setup(end: socket.socket, setup: Setup, counts: int, listeners: list[socket.socket]) -> None:
    """Send a new process its first message."""
    descriptors = (counts, *(listener.fileno() for listener in listeners))
    send(end, SETUP, orjson.dumps(setup).decode(), descriptors)


class SupervisorChannel:
    """A process's end of the socket.

    Attributes:
        setup: The supervisor's first message.
        counts: File descriptor of the shared memory with the workers' numbers of connections.
        listeners: The listening sockets.
    """

    def __init__(self) -> None:
        _die_with_parent()
        self._socket = socket.socket(fileno=os.dup(0))  # the supervisor passes it as standard input
        message = receive(self._socket)
        if message.kind != SETUP:
            raise SystemExit(1)
        self.setup = Setup(**orjson.loads(message.text))
        self.counts, *listeners = message.descriptors
        self.listeners = [socket.socket(fileno=descriptor) for descriptor in listeners]

    def listen(
        self, on_connect: Callable[[ConnectionDescriptors], None], on_log_level: Callable[[str], None]
    ) -> None:
        """Call back on the running event loop for every message from the supervisor.

        Args:
            on_connect: Called with a new connection between a worker and the engine.
            on_log_level: Called with a new log level.
        """
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket, self._read, on_connect, on_log_level)

    def heartbeat(self, *, ready: bool) -> None:
        """Tell the supervisor that the process is alive, and whether it is ready."""
        send(self._socket, READY if ready else ALIVE)

    def set_log_level(self, level: str) -> None:
        """Change the log level of all processes, this one included."""
        send(self._socket, LOG_LEVEL, level)

    def report_failure(self, reason: str) -> None:
        """Tell the supervisor why this process cannot start."""
        send(self._socket, FAILED, reason)

    def _read(
        self, on_connect: Callable[[ConnectionDescriptors], None], on_log_level: Callable[[str], None]
    ) -> None:
        message = receive(self._socket)
        if message.kind == CONNECT:
            on_connect(ConnectionDescriptors(*message.descriptors))
        elif message.kind == LOG_LEVEL:
            on_log_level(message.text)
        elif not message.kind:  # the supervisor is gone
            os._exit(1)


def _die_with_parent() -> None:
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)
