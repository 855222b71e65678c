"""The metrics folder is removed after its service, even after one that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from service.errors import StartFailed
from service.multiprocess.metrics_folder import metrics_folder

HOLD = "from service.multiprocess.metrics_folder import *\n" + (
    "with metrics_folder() as f: print(f, flush=True); input()"
)


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_the_folder_exists_during_the_with_block(tmp_path: Path) -> None:
    with metrics_folder() as folder:
        assert folder.parent == tmp_path and folder.is_dir()
        (folder / "counter_engine.db").write_bytes(b"x")
    assert not list(tmp_path.iterdir())


def test_the_folder_of_a_killed_service_is_removed_and_one_in_use_is_not(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None and other.stdin is not None
    theirs = Path(other.stdout.readline().strip())
    with metrics_folder() as ours:
        assert set(tmp_path.iterdir()) == {ours, theirs}
    other.send_signal(signal.SIGKILL)
    other.wait(20)
    assert theirs.is_dir()
    with metrics_folder() as ours:
        assert set(tmp_path.iterdir()) == {ours}
    other.stdout.close()
    other.stdin.close()


def test_without_a_temporary_folder_the_start_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with pytest.raises(StartFailed, match="temporary files"), metrics_folder():
        pass
