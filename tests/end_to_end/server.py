"""The real process: `kotae serve` on a free port, its log, its end."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

_PATIENCE_SECONDS = 60


class Server:
    """A running server.

    Attributes:
        url: Where it listens.
        lines: Every log line so far.
    """

    def __init__(self, models: Path, *arguments: str, **settings: str) -> None:
        environment = {**os.environ, **{f"KOTAE_{key.upper()}": value for key, value in settings.items()}}
        command = [sys.executable, "-m", "service", "serve", "--port", "0", "--models", str(models)]
        command += arguments
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
        self.lines: list[dict[str, Any]] = []
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        port = self.wait_for_line("listening on")["port"]
        self.url = f"http://127.0.0.1:{port}"

    def wait_for_line(self, message: str) -> dict[str, Any]:
        """Wait until the log has a line whose message begins so."""
        while True:
            line = self._events.get(timeout=_PATIENCE_SECONDS)
            if line["message"].startswith(message):
                return line

    def wait_until_ready(self) -> None:
        """Ask `/readyz` until it is green."""
        transport = httpx.HTTPTransport(retries=3)
        with httpx.Client(base_url=self.url, transport=transport, timeout=_PATIENCE_SECONDS) as client:
            for _ in range(_PATIENCE_SECONDS * 20):
                if client.get("/readyz").status_code == 200:
                    return
                threading.Event().wait(0.05)
        raise AssertionError("never became ready")

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def exit_code(self) -> int:
        """Wait for the end."""
        code = self.process.wait(_PATIENCE_SECONDS)
        self._reader.join(_PATIENCE_SECONDS)
        return code

    def close(self) -> None:
        """Let go of an ended process."""
        self.process.wait(_PATIENCE_SECONDS)
        self._reader.join(_PATIENCE_SECONDS)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for text in self.process.stdout:
            line = json.loads(text)
            self.lines.append(line)
            self._events.put(line)


@contextmanager
def serving(models: Path, *arguments: str, **settings: str) -> Iterator[Server]:
    """Run a server for the length of a block."""
    server = Server(models, *arguments, **settings)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.process.kill()
        server.close()
