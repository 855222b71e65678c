"""The supervisor: pauses between restarts, processes that are killed, starts that fail."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from service.errors import StartFailed
from service.multiprocess import supervisor as module
from service.multiprocess.supervisor import Supervisor
from service.settings import Settings
from tests.service.multiprocess.connection_pair import until


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    """A supervisor of one worker."""
    settings = Settings(http_workers=1, heartbeat_seconds=0.01, event_loop_lag_limit_seconds=5)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Supervisor(settings, [listener], tmp_path)


async def test_a_process_that_never_became_ready_is_restarted_after_growing_pauses(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    monkeypatch.setattr(module, "_FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(module, "_LONGEST_PAUSE_SECONDS", 0.04)
    running = asyncio.create_task(supervisor.run())
    await until(lambda: supervisor._engine.starts >= 5)
    supervisor._stop(signal.SIGTERM)
    await asyncio.wait_for(running, 20)
    pauses = [vars(r)["pause_seconds"] for r in caplog.records if r.getMessage().startswith("engine ended")]
    assert pauses[:4] == [0.01, 0.02, 0.04, 0.04]


async def test_a_process_that_cannot_start_ends_the_service_with_its_reason(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = tmp_path / "failing"
    failing.write_text(
        f"#!{sys.executable}\nimport socket\nline = socket.socket(fileno=0)\nline.recv(65536)\n"
        "line.send(b'failed there is no such device')\n"
    )
    failing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(failing))
    with pytest.raises(StartFailed, match=r"^there is no such device$"):
        await asyncio.wait_for(supervisor.run(), 20)


class RecordingProcess:
    """Records signals."""

    def __init__(self) -> None:
        self.signals: list[int] = []

    def send_signal(self, number: int) -> None:
        self.signals.append(number)


async def test_a_process_without_heartbeats_is_killed_but_not_after_a_pause_of_the_machine(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    process = RecordingProcess()
    supervisor._engine.process = process  # type: ignore[assignment]
    supervisor._engine.is_ready, supervisor._engine.last_heartbeat = True, clock.now
    watch = asyncio.create_task(supervisor._watch())
    await asyncio.sleep(0)
    clock.now += 1000  # the machine was paused: the watch itself is late
    await until(lambda: supervisor._engine.last_heartbeat == clock.now)
    assert not process.signals
    for _ in range(20):  # the watch is on time, the engine sends no heartbeat
        clock.now += 1
        await asyncio.sleep(0.02)
    assert signal.SIGKILL in process.signals
    watch.cancel()


async def test_a_log_level_is_used_for_processes_started_later(supervisor: Supervisor) -> None:
    before = logging.getLogger().level
    try:
        supervisor._set_log_level("error")
        assert logging.getLogger().level == logging.ERROR
        assert supervisor._settings.log_level == "error"
    finally:
        logging.getLogger().setLevel(before)
