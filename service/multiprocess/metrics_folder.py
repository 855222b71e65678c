"""Temporary folder of the metrics files that all processes of one service share.

A supervisor that is killed cannot remove its folder. The next supervisor removes it; a file lock shows which
folders are still in use.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.errors import StartFailed

_PREFIX = "kotae-metrics-"
_LOCK = "lock"


@contextmanager
def metrics_folder() -> Iterator[Path]:
    """Create the folder, and remove it at the end of the `with` block.

    Raises:
        StartFailed: No folder for temporary files can be written.
    """
    _remove_unused(Path(tempfile.gettempdir()))
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        lock = (folder / _LOCK).open("w")
    except OSError as error:
        raise StartFailed(f"http_workers needs a folder for temporary files: {error}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_unused(parent: Path) -> None:
    for path in parent.glob(f"{_PREFIX}*/{_LOCK}"):
        with contextlib.suppress(OSError), path.open() as lock:  # locked, or another user's
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.parent, ignore_errors=True)
