"""The folder in which all processes of one service keep their counters, so that each can add them up.

A supervisor that is killed cannot remove its own; the next one does, which a lock tells from those in use.
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
    """Make the folder, for the length of a block.

    Raises:
        StartFailed: There is no place for temporary files.
    """
    _remove_abandoned(Path(tempfile.gettempdir()))
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


def _remove_abandoned(place: Path) -> None:
    for path in place.glob(f"{_PREFIX}*/{_LOCK}"):
        with contextlib.suppress(OSError), path.open() as lock:  # in use, or another user's
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.parent, ignore_errors=True)
