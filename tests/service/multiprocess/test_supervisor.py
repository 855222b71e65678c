"""The supervisor's own decisions: how soon to start again, whom to kill, when a start has failed."""

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
from tests.service.multiprocess.joined import until


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Supervisor]:
    """A supervisor of one worker."""
    settings = Settings(http_workers=1, heartbeat_seconds=0.01, event_loop_lag_limit_seconds=5)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Supervisor(settings, [listener], tmp_path)


async def test_what_dies_before_it_was_ready_is_started_again_ever_later(
    watched: Supervisor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    monkeypatch.setattr(module, "_FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(module, "_LONGEST_PAUSE_SECONDS", 0.04)
    running = asyncio.create_task(watched.run())
    await until(lambda: watched._engine.starts >= 5)
    watched._stop(signal.SIGTERM)
    await asyncio.wait_for(running, 20)
    pauses = [vars(r)["pause_seconds"] for r in caplog.records if r.getMessage().startswith("engine ended")]
    assert pauses[:4] == [0.01, 0.02, 0.04, 0.04]


async def test_a_process_that_cannot_start_ends_the_service_with_its_reason(
    watched: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = tmp_path / "refusing"
    refusing.write_text(
        f"#!{sys.executable}\nimport socket\nline = socket.socket(fileno=0)\nline.recv(65536)\n"
        "line.send(b'failed there is no such device')\n"
    )
    refusing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(refusing))
    with pytest.raises(StartFailed, match=r"^there is no such device$"):
        await asyncio.wait_for(watched.run(), 20)


class Process:
    """Takes signals."""

    def __init__(self) -> None:
        self.signals: list[int] = []

    def send_signal(self, number: int) -> None:
        self.signals.append(number)


async def test_who_falls_silent_is_killed_but_not_after_a_pause_of_the_whole_machine(
    watched: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    process = Process()
    watched._engine.process = process  # type: ignore[assignment]
    watched._engine.is_ready, watched._engine.last_sign = True, clock.now
    watch = asyncio.create_task(watched._watch())
    await asyncio.sleep(0)
    clock.now += 1000  # the machine stood still: the watch itself is late
    await until(lambda: watched._engine.last_sign == clock.now)
    assert not process.signals
    for _ in range(20):  # the watch is on time, the engine gives no sign
        clock.now += 1
        await asyncio.sleep(0.02)
    assert signal.SIGKILL in process.signals
    watch.cancel()


async def test_a_log_level_holds_for_those_who_are_started_later(watched: Supervisor) -> None:
    before = logging.getLogger().level
    try:
        watched._set_level("error")
        assert logging.getLogger().level == logging.ERROR
        assert watched._settings.log_level == "error"
    finally:
        logging.getLogger().setLevel(before)
