"""Fetch photographs and paintings from Debian's wallpaper packages.

Nothing is installed: the packages are downloaded, and their images are saved as JPEG files of the size that
scenes need. Debian or a derivative is needed. The licences are those of the packages.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from PIL import Image

from training.data.debian_packages import package_files

PACKAGES = ("lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04", "mate-backgrounds", "ukui-wallpapers")
LONGER_SIDE = 1400  # pixels
_KINDS = (".jpg", ".jpeg", ".png", ".webp")
_PLACE = "usr/share/backgrounds"
_OTHER_SIZE = re.compile(r"_\d+x\d+$")  # names of files that repeat a picture


def fetch_wallpapers(folder: Path, packages: Sequence[str] = PACKAGES) -> list[Path]:
    """Fetch the packages and save their images.

    Args:
        folder: Where to save.
        packages: Debian's names.

    Returns:
        The saved files.

    Raises:
        DataRejected: apt is missing or cannot fetch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _save(content, folder / f"{_plain(path.stem)}.jpg")
        for path, content in package_files(packages, _wanted)
    ]


def _wanted(path: PurePosixPath) -> bool:
    kept = path.suffix.lower() in _KINDS and not _OTHER_SIZE.search(path.stem)
    return kept and path.is_relative_to(_PLACE)


def _save(content: bytes, path: Path) -> Path:
    with Image.open(io.BytesIO(content)) as picture:
        picture.draft("RGB", (LONGER_SIDE, LONGER_SIDE))  # JPEG files are decoded at a fraction of their size
        small = picture.convert("RGB")
    small.thumbnail((LONGER_SIDE, LONGER_SIDE))
    small.save(path, format="JPEG", quality=90)
    return path


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()
