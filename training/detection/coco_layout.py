"""Find the files of a COCO data set: JSON files by part, and the folder of their images.

Labelling tools use different layouts. These are known:

- one JSON file, in the folder or in its `annotations/`, with any name (CVAT, Label Studio);
- a folder per part, `train/`, `valid/` or `val/`, and `test/`, each with a JSON file (Roboflow);
- JSON files named after the part, such as `instances_train2017.json` and `instances_val2017.json`.

Images are searched beside the JSON file and in the folders that these tools use.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.errors import DataRejected

_PARTS = {"train": ("train",), "validation": ("valid", "val", "validation"), "test": ("test",)}
_ANNOTATIONS = "annotations"
_IMAGES = "images"


@dataclass(frozen=True, slots=True)
class CocoFiles:
    """JSON files by part; None if the data set has no file for it."""

    train: Path
    validation: Path | None = None
    test: Path | None = None


def find_parts(path: Path) -> CocoFiles:
    """Find the JSON files of a data set.

    Args:
        path: Its folder, or the JSON file of the training part.

    Raises:
        DataRejected: There is no JSON file, or it is not clear which one to use.
    """
    if path.is_file():
        return CocoFiles(path)
    folders = {part: [path / name for name in names] for part, names in _PARTS.items()}
    parts = {part: next(filter(None, map(_only_file, tried)), None) for part, tried in folders.items()}
    if parts["train"]:
        return CocoFiles(parts["train"], parts["validation"], parts["test"])
    files = _files(path) or _files(path / _ANNOTATIONS)
    if not files:
        raise DataRejected(f"there is no COCO file in {path}, its {_ANNOTATIONS}/ or its train/")
    if len(files) == 1:
        return CocoFiles(files[0])
    named = {part: [file for file in files if _says(file, names)] for part, names in _PARTS.items()}
    if len(named["train"]) != 1 or max(map(len, named.values())) > 1:
        listed = ", ".join(file.name for file in files)
        raise DataRejected(f"{files[0].parent} has several COCO files ({listed}): give the path of one")
    train, validation, test = (next(iter(named[part]), None) for part in _PARTS)
    assert train is not None, "one file was found"
    return CocoFiles(train, validation, test)


def find_pictures(path: Path, names: Sequence[str]) -> Path:
    """Return the folder to which the file names are relative: the one that has most of them.

    Args:
        path: The JSON file.
        names: File names in the JSON file.

    Raises:
        DataRejected: No searched folder has any of the files.
    """
    part = path.stem.removeprefix("instances_")  # `train2017`, or CVAT's `default`
    above = path.parent.parent if path.parent.name == _ANNOTATIONS else path.parent
    tried = [path.parent, above, above / _IMAGES, above / _IMAGES / part, above / part]
    found = [sum((folder / name).is_file() for name in names) for folder in tried]
    if names and not any(found):
        listed = ", ".join(str(folder) for folder in dict.fromkeys(tried))
        raise DataRejected(f"{path} names {names[0]} and others, and none of them is in {listed}")
    return tried[found.index(max(found))]


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))


def _only_file(folder: Path) -> Path | None:
    files = _files(folder)
    if len(files) > 1:
        listed = ", ".join(file.name for file in files)
        raise DataRejected(f"{folder} has several COCO files ({listed}): give the path of one")
    return files[0] if files else None


def _says(file: Path, names: Sequence[str]) -> bool:
    words = re.findall(r"[a-z]+", file.stem.lower())
    return any(name in words for name in names)
