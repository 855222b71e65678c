"""Fetch Debian packages with apt and read files from them, without installing anything.

apt fetches the versions of this machine's apt sources, so Debian or a derivative is needed.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from training.errors import DataRejected


def package_files(
    packages: Sequence[str], wanted: Callable[[PurePosixPath], bool]
) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Fetch packages and yield the wanted files in them, in the packages' order.

    Args:
        packages: Debian's names.
        wanted: Returns whether a file is wanted, by its installed path without the leading slash.

    Raises:
        DataRejected: apt is missing or cannot fetch.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_command(["apt-get", "download", *packages], folder)
        for package in packages:
            (archive,) = folder.glob(f"{package}_*.deb")
            content = run_command(["dpkg-deb", "--fsys-tarfile", str(archive)], folder)
            with tarfile.open(fileobj=io.BytesIO(content)) as tar:
                for member in tar:
                    path = PurePosixPath(member.name)
                    if member.isfile() and wanted(path):
                        file = tar.extractfile(member)
                        assert file is not None, "a file's member holds a file"
                        yield path, file.read()


def run_command(command: Sequence[str], folder: Path | None = None) -> bytes:
    """Run one of apt's or dpkg's programs and return its output.

    Raises:
        DataRejected: The program is missing or failed; the text has its last line.
    """
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or str(error).encode()
        last = said.decode("utf-8", "replace").strip().splitlines()[-1]
        raise DataRejected(f"Debian's packages are fetched with apt: {command[0]} failed: {last}") from error
