"""The socket between the supervisor and each of its processes: signs of life, connections, the log level.

A message is a word and what it is about. The supervisor's first one holds the settings and, as file
descriptors, the listeners and the workers' counts. A process learns of the supervisor's death from the
kernel, and dies as well.
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

from service.multiprocess.token_socket import Ends

SETUP, LINK, LEVEL = "setup", "link", "level"  # from the supervisor; LEVEL also to it
ALIVE, READY, FAILED = "alive", "ready", "failed"  # to the supervisor

_LARGEST_BYTES = 2**16
_MOST_DESCRIPTORS = 8
_PR_SET_PDEATHSIG = 1


class Message(NamedTuple):
    """One message; an empty word means that the other side is gone."""

    word: str
    text: str
    descriptors: list[int]


@dataclass(frozen=True, slots=True)
class Setup:
    """What a process is started with.

    Attributes:
        name: `engine`, or `http-0`, `http-1`, …
        settings: As JSON.
        metrics_folder: Where all processes keep their counters.
        restarts: How often the process was started before.
    """

    name: str
    settings: str
    metrics_folder: str
    restarts: int


def send(line: socket.socket, word: str, text: str = "", descriptors: tuple[int, ...] = ()) -> None:
    """Send a message; one that cannot be sent is lost, as is a process that no longer reads."""
    with contextlib.suppress(OSError):
        socket.send_fds(line, [f"{word} {text}".encode()], descriptors)


def receive(line: socket.socket) -> Message:
    """Receive a message."""
    try:
        received = socket.recv_fds(line, _LARGEST_BYTES, _MOST_DESCRIPTORS)
    except ConnectionResetError:
        # Told once if the other side ended with messages of ours unread; its own last one comes after that.
        received = socket.recv_fds(line, _LARGEST_BYTES, _MOST_DESCRIPTORS)
    word, _, text = received[0].decode().partition(" ")
    return Message(word, text, received[1])


def send_setup(line: socket.socket, setup: Setup, counts: int, listeners: list[socket.socket]) -> None:
    """Tell a new process what it is."""
    descriptors = (counts, *(listener.fileno() for listener in listeners))
    send(line, SETUP, orjson.dumps(setup).decode(), descriptors)


class SupervisorChannel:
    """A process's end.

    Attributes:
        setup: What the process is started with.
        counts: Memory in which workers tell how many connections they have; a file descriptor.
        listeners: The sockets to accept on.
    """

    def __init__(self) -> None:
        _die_with_parent()
        self._line = socket.socket(fileno=os.dup(0))  # the supervisor hands it over as standard input
        message = receive(self._line)
        if message.word != SETUP:
            raise SystemExit(1)
        self.setup = Setup(**orjson.loads(message.text))
        self.counts, *listeners = message.descriptors
        self.listeners = [socket.socket(fileno=descriptor) for descriptor in listeners]

    def watch(self, on_link: Callable[[Ends], None], on_level: Callable[[str], None]) -> None:
        """Call back on the running event loop for every message of the supervisor's."""
        self._line.setblocking(False)
        asyncio.get_running_loop().add_reader(self._line, self._read, on_link, on_level)

    def beat(self, *, ready: bool) -> None:
        """Give a sign of life."""
        send(self._line, READY if ready else ALIVE)

    def set_level(self, level: str) -> None:
        """Change the log level of all processes; comes back as a message to each."""
        send(self._line, LEVEL, level)

    def fail(self, reason: str) -> None:
        """Say why this process cannot start."""
        send(self._line, FAILED, reason)

    def _read(self, on_link: Callable[[Ends], None], on_level: Callable[[str], None]) -> None:
        message = receive(self._line)
        if message.word == LINK:
            on_link(Ends(*message.descriptors))
        elif message.word == LEVEL:
            on_level(message.text)
        elif not message.word:  # the supervisor is gone
            os._exit(1)


def _die_with_parent() -> None:
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)
