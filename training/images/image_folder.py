"""A folder of image files, one sub-folder per class, as a source of images.

Files are decoded by the service's decoder, so a file that can be trained on can also be sent to the service.
All images are kept in memory at the graph's size.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.errors import RequestError
from service.repository.manifest import ImageInput
from service.tasks import Limits
from service.tasks.image.preprocessing import decode_image
from training.errors import DataRejected
from training.images.augmentation import ImageAugmentation
from training.images.redraw import Redrawing
from training.recipes.image_recipe import FolderData

_LOG = logging.getLogger(__name__)
_FEWEST_CLASSES = 2
_MOST_NAMED = 20


class ImageFolder:
    """A user's images; classes are sub-folders, in the order of their names.

    The files of the classes are interleaved in proportion, each class in the order of its file names. So a
    contiguous block has every class, and images that were taken together stay together. Files and folders
    whose names start with a dot are ignored.

    Args:
        data: The folder, and what happens with unreadable files.
        spec: Size and channels of the graph's input.

    Raises:
        DataRejected: The folder is missing, has fewer than two classes, has an empty class or, unless they
            are skipped, has files that cannot be decoded; the text names them.
    """

    def __init__(self, data: FolderData, spec: ImageInput) -> None:
        self.classes = _class_names(data.path)
        self.redrawings = 0
        self._mirror = data.mirror
        found = [_files(data.path / name) for name in self.classes]
        labelled = [(path, label) for label, paths in enumerate(found) for path in paths]
        images, self.unreadable = _decode([path for path, _ in labelled], spec)
        _report(self.unreadable, data.unreadable)
        readable = [(path, label) for path, label in labelled if path in images]
        counts = np.bincount([label for _, label in readable], minlength=len(self.classes))
        if not counts.all():
            empty = self.classes[int(counts.argmin())]
            raise DataRejected(f"class {empty} has no picture that can be read in {data.path / empty}")
        readable = [readable[i] for i in _interleaved(counts)]
        self._paths = [path for path, _ in readable]
        self.labels: NDArray[np.int64] = np.array([label for _, label in readable], dtype=np.int64)
        self.pixels: NDArray[np.uint8] = np.stack([images[path] for path in self._paths])
        self.extra_pixels, self.extra_labels = self.pixels[:0], self.labels[:0]
        mix = ", ".join(f"{name} {count}" for name, count in zip(self.classes, counts, strict=True))
        self.description = f"folder {data.path.name} of {len(self.labels)} pictures: {mix}"

    def files(self, indices: NDArray[np.int64]) -> list[bytes]:
        """Return the files as they are."""
        return [self._paths[i].read_bytes() for i in indices]

    def redrawn(self, indices: NDArray[np.int64], seed: int) -> list[Redrawing]:
        """Return nothing: only digits can be redrawn."""
        return []

    def augmentation(self) -> ImageAugmentation:
        """Return the augmentation for training images."""
        return ImageAugmentation(mirror=self._mirror)


def _class_names(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise DataRejected(f"there is no folder {folder}: give the folder whose sub-folders are the classes")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) < _FEWEST_CLASSES:
        raise DataRejected(f"{folder} has {len(names)} sub-folders: there must be one a class, at least two")
    return tuple(names)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def _decode(paths: list[Path], spec: ImageInput) -> tuple[dict[Path, NDArray[np.uint8]], tuple[str, ...]]:
    """Decode files; return pixels u8 [H, W, C] by path, and the errors of files that cannot be decoded."""
    images: dict[Path, NDArray[np.uint8]] = {}
    unreadable: list[str] = []
    for path in paths:
        try:
            images[path] = decode_image(path.read_bytes(), spec, max_pixels=Limits().max_pixels)
        except (RequestError, OSError) as error:
            unreadable.append(f"{path}: {error}")
    return images, tuple(unreadable)


def _interleaved(counts: NDArray[np.int64]) -> list[int]:
    """Return the order of images, stored class after class, by their relative place within the class."""
    places = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
    return np.argsort(places, kind="stable").tolist()  # type: ignore[no-any-return]


def _report(unreadable: tuple[str, ...], rule: str) -> None:
    if not unreadable:
        return
    more = [f"and {len(unreadable) - _MOST_NAMED} more"] if len(unreadable) > _MOST_NAMED else []
    listed = "\n  ".join([*unreadable[:_MOST_NAMED], *more])
    if rule == "error":
        raise DataRejected(
            f"{len(unreadable)} files cannot be read; mend or remove them, "
            f"or set data.unreadable to skip:\n  {listed}"
        )
    _LOG.warning("%d files cannot be read and are left out:\n  %s", len(unreadable), listed)
