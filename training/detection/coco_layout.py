"""Where a COCO data set has its files: JSON files by part, and the pictures that they name.

Labelling tools lay them out in their own ways. Known are

- one JSON file, in the folder or in its `annotations/`, whatever its name (CVAT, Label Studio);
- a folder a part, `train/`, `valid/` or `val/`, and `test/`, each with a JSON file (Roboflow);
- JSON files whose names say the part, such as `instances_train2017.json` and `instances_val2017.json`.

Pictures are looked for beside a JSON file and in the folders that these tools put them into.
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
    """JSON files by part; None where the data set has none of its own."""

    train: Path
    validation: Path | None = None
    test: Path | None = None


def find_parts(path: Path) -> CocoFiles:
    """Find the JSON files of a data set.

    Args:
        path: Its folder, or the JSON file of what is learnt from.

    Raises:
        DataRejected: There is none, or no telling which is meant.
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
    """Find the folder that the names in a JSON file are relative to: the one that has most of them.

    Args:
        path: The JSON file.
        names: As the file has them.

    Raises:
        DataRejected: None of the folders that are looked into has any of them.
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
