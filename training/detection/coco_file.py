"""Read and check one COCO file: its annotations, and the images that it names."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import RequestError
from service.tasks import Limits
from service.tasks.image.image_file import open_image
from training.detection.coco_layout import find_pictures
from training.detection.dataset import AnnotatedImage
from training.errors import DataRejected

_MOST_NAMED = 20


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Image(_Lenient):
    id: int
    file_name: str
    width: int | None = None
    height: int | None = None

    @property
    def path(self) -> str:
        """The file name with `/` between folders, also if it was written on Windows."""
        return self.file_name.replace("\\", "/")


class _Annotation(_Lenient):
    image_id: int
    category_id: int
    bbox: tuple[float, float, Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]]
    iscrowd: int = 0


class _Category(_Lenient):
    id: int
    name: str


class _Document(_Lenient):
    images: tuple[_Image, ...]
    annotations: tuple[_Annotation, ...]
    categories: Annotated[tuple[_Category, ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class CocoImage:
    """An image file and its boxes; f64 [M, 4] and i64 [M] as in `AnnotatedImage`."""

    path: Path
    name: str
    boxes_xyxy: NDArray[np.float64]
    labels: NDArray[np.int64]

    def load(self) -> AnnotatedImage:
        """Return the file with its boxes."""
        return AnnotatedImage(self.name, self.path.read_bytes(), self.boxes_xyxy, self.labels)


class CocoFile:
    """One JSON file, checked.

    Args:
        path: The file.
        folder: Folder of the images; None searches for it.

    Attributes:
        used: Names of the categories that have boxes, in the order of their ids.
        description: What is in the file.
    """

    def __init__(self, path: Path, folder: Path | None) -> None:
        self._path = path
        document = _parse(path)
        self._images = document.images
        self._names = {category.id: category.name.strip() for category in document.categories}
        if len(self._names) != len(document.categories):
            raise DataRejected(f"{path}: two categories have the same id")
        self._check_references(document)
        self._folder = folder or find_pictures(path, [image.path for image in self._images])
        self._sizes = self._open_pictures()
        self._boxes: dict[int, list[tuple[list[float], str]]] = defaultdict(list)
        there, crowds, unseen = set(), 0, 0
        for annotation in document.annotations:
            left, top, width, height = annotation.bbox
            limit = [*self._sizes[annotation.image_id]] * 2
            edges = np.array([left, top, left + width, top + height]).clip(0, limit)
            if annotation.iscrowd:
                crowds += 1
            elif not (edges[:2] < edges[2:]).all():
                unseen += 1
            else:
                there.add(annotation.category_id)
                self._boxes[annotation.image_id].append((edges.tolist(), self._names[annotation.category_id]))
        self.used = tuple(self._names[number] for number in sorted(there))
        if len(set(self.used)) != len(self.used):
            raise DataRejected(f"{path}: two categories have the same name")
        self.description = (
            f"COCO file {path.name} of {len(self._images)} pictures with "
            f"{sum(map(len, self._boxes.values()))} boxes: {', '.join(self.used)}"
        )
        unused = [name for number, name in self._names.items() if number not in there]
        left_out = [f"{crowds} of crowds"] * bool(crowds)
        left_out += [f"{unseen} outside of the picture or without area"] * bool(unseen)
        left_out += [f"categories without a box: {', '.join(unused)}"] * bool(unused)
        if left_out:
            self.description += f" (left out: {'; '.join(left_out)})"

    def pictures(self, classes: tuple[str, ...]) -> list[CocoImage]:
        """Return the images, with labels as indices into `classes`."""
        if strangers := [name for name in self.used if name not in classes]:
            raise DataRejected(f"{self._path}: category {strangers[0]!r} has no box in what is learnt from")
        pictures = []
        for image in self._images:
            boxes = self._boxes[image.id]
            pictures.append(
                CocoImage(
                    self._folder / image.path,
                    re.sub(r"[^\w.-]+", "-", image.path),
                    np.array([edges for edges, _ in boxes], dtype=np.float64).reshape(-1, 4),
                    np.array([classes.index(name) for _, name in boxes], dtype=np.int64),
                )
            )
        return pictures

    def _check_references(self, document: _Document) -> None:
        for what, values in (
            ("id", [image.id for image in document.images]),
            ("file_name", [image.path for image in document.images]),
        ):
            first: dict[object, int] = {}
            for number, value in enumerate(values):
                if first.setdefault(value, number) != number:
                    raise DataRejected(
                        f"{self._path}: images.{number} has the {what} of images.{first[value]}, {value}"
                    )
        images = {image.id for image in document.images}
        for number, annotation in enumerate(document.annotations):
            for kind, named, known in (
                ("image", annotation.image_id, images),
                ("category", annotation.category_id, self._names),
            ):
                if named not in known:
                    raise DataRejected(
                        f"{self._path}: annotations.{number} is of {kind} {named}, which is not there"
                    )

    def _open_pictures(self) -> dict[int, tuple[int, int]]:
        """Open every image; return width and height, upright, by id."""
        sizes, broken = {}, []
        for image in self._images:
            path = self._folder / image.path
            try:
                picture = open_image(path.read_bytes(), 3, max_pixels=Limits().max_pixels)
            except FileNotFoundError:
                broken.append(f"{path}: there is no such file")
                continue
            except (OSError, RequestError) as error:
                broken.append(f"{path}: {error}")
                continue
            sizes[image.id] = picture.size
            said = (image.width, image.height)
            if None not in said and said != picture.size:
                broken.append(
                    f"{path}: {picture.width} x {picture.height} pixels when upright, but the COCO file says "
                    f"{image.width} x {image.height}, so its boxes are of another picture"
                )
        if broken:
            more = [f"and {len(broken) - _MOST_NAMED} more"] if len(broken) > _MOST_NAMED else []
            listed = "\n  ".join([*broken[:_MOST_NAMED], *more])
            raise DataRejected(f"{self._path}: {len(broken)} pictures cannot be used:\n  {listed}")
        return sizes


def _parse(path: Path) -> _Document:
    try:
        return _Document.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataRejected(f"there is no COCO file {path}") from error
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"]) or "the file"
        raise DataRejected(f"{path}: {place}: {problem['msg']}") from error
