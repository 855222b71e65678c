"""Photographs and paintings out of Debian's wallpaper packages, fetched with apt and made small.

Nothing is installed: the package files are downloaded, the pictures read out of them, and each saved as a
JPEG file no larger than scenes need. Debian, or a relative of it, is needed. Licences are the packages' own.
"""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from PIL import Image

from training.errors import DataRejected

PACKAGES = ("lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04", "mate-backgrounds", "ukui-wallpapers")
LONGER_SIDE = 1400  # pixels
_KINDS = (".jpg", ".jpeg", ".png", ".webp")
_PLACE = "usr/share/backgrounds"
_OTHER_SIZE = re.compile(r"_\d+x\d+$")  # names of files that repeat a picture


def fetch_wallpapers(folder: Path, packages: Sequence[str] = PACKAGES) -> list[Path]:
    """Fetch the packages and save their pictures.

    Args:
        folder: Where to save.
        packages: Debian's names.

    Returns:
        The saved files.

    Raises:
        DataRejected: There is no apt here, or it cannot fetch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        _run(["apt-get", "download", *packages], Path(name))
        archives = sorted(Path(name).glob("*.deb"))
        return [path for archive in archives for path in _unpack(archive, folder)]


def _unpack(archive: Path, folder: Path) -> list[Path]:
    content = _run(["dpkg-deb", "--fsys-tarfile", str(archive)], archive.parent)
    saved = []
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            wanted = member.isfile() and _PLACE in member.name and path.suffix.lower() in _KINDS
            if not wanted or _OTHER_SIZE.search(path.stem):
                continue
            file = tar.extractfile(member)
            assert file is not None, "a file's member holds a file"
            saved.append(_save(file.read(), folder / f"{_plain(path.stem)}.jpg"))
    return saved


def _save(content: bytes, path: Path) -> Path:
    with Image.open(io.BytesIO(content)) as picture:
        picture.draft("RGB", (LONGER_SIDE, LONGER_SIDE))  # JPEG files are decoded at a fraction of their size
        small = picture.convert("RGB")
    small.thumbnail((LONGER_SIDE, LONGER_SIDE))
    small.save(path, format="JPEG", quality=90)
    return path


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()


def _run(command: list[str], folder: Path) -> bytes:
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or str(error).encode()
        last = said.decode("utf-8", "replace").strip().splitlines()[-1]
        raise DataRejected(
            f"wallpapers are fetched with apt, on Debian: {command[0]} failed: {last}"
        ) from error
