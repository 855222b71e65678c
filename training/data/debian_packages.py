"""Files out of Debian's packages, fetched with apt and read without installing anything.

What is fetched are the versions of this machine's apt sources. Debian, or a relative of it, is needed.
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
    """Fetch packages and give the files in them that are wanted, in the packages' order.

    Args:
        packages: Debian's names.
        wanted: Whether a file is, by the path that it would be installed at, without a slash before it.

    Raises:
        DataRejected: There is no apt here, or it cannot fetch.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(["apt-get", "download", *packages], folder)
        for package in packages:
            (archive,) = folder.glob(f"{package}_*.deb")
            content = run(["dpkg-deb", "--fsys-tarfile", str(archive)], folder)
            with tarfile.open(fileobj=io.BytesIO(content)) as tar:
                for member in tar:
                    path = PurePosixPath(member.name)
                    if member.isfile() and wanted(path):
                        file = tar.extractfile(member)
                        assert file is not None, "a file's member holds a file"
                        yield path, file.read()


def run(command: Sequence[str], folder: Path | None = None) -> bytes:
    """Run one of apt's or dpkg's programs and give what it prints.

    Raises:
        DataRejected: It is not there, or it failed; the text has its last words.
    """
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or str(error).encode()
        last = said.decode("utf-8", "replace").strip().splitlines()[-1]
        raise DataRejected(f"Debian's packages are fetched with apt: {command[0]} failed: {last}") from error
