"""A user's images with boxes in COCO's format.

T.-Y. Lin et al., Microsoft COCO, 2014 (arXiv:1405.0312): `images` with `id` and `file_name`, `annotations`
with `image_id`, `category_id` and `bbox` (left, top, width and height in pixels), `categories` with `id` and
`name`. Boxes of crowds (`iscrowd: 1`) and boxes outside the image are left out and counted. Boxes that are
partly outside are clipped. Categories without a box in the training part are no labels.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import RequestError
from service.tasks import Limits
from service.tasks.image.image_file import open_picture
from training.detection.coco_layout import find_parts, find_pictures
from training.detection.dataset import AnnotatedImage, TrainingSet, decode_training_set
from training.errors import DataRejected
from training.recipes.detection_recipe import CocoData, DetectionRecipe

_FEWEST = 3  # pictures, one per part
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
class _Picture:
    """An image file and its boxes; f64 [M, 4] and i64 [M] as in `AnnotatedImage`."""

    path: Path
    name: str
    boxes_xyxy: NDArray[np.float64]
    labels: NDArray[np.int64]

    def load(self) -> AnnotatedImage:
        return AnnotatedImage(self.name, self.path.read_bytes(), self.boxes_xyxy, self.labels)


class CocoFolder:
    """Images and boxes of a COCO file; see `DetectionSource`.

    Args:
        recipe: Paths and split.

    Raises:
        DataRejected: A JSON file or an image is missing or broken, or an annotation names an unknown id; the
            text names it.
    """

    def __init__(self, recipe: DetectionRecipe) -> None:
        assert isinstance(recipe.data, CocoData), "a recipe without a COCO file"
        data, split = recipe.data, recipe.split
        self._recipe = recipe
        self.mirror = data.mirror
        found = find_parts(data.path)
        training = _CocoFile(found.train, data.images)
        self.classes = training.used
        if not self.classes:
            raise DataRejected(f"{found.train} has no box to learn from")
        pictures = training.pictures(self.classes)
        self.description = training.description
        validation, test = (
            _CocoFile(path, None).pictures(self.classes) if path else None
            for path in (data.validation or found.validation, data.test or found.test)
        )
        shares = (0.0 if test else split.test, 0.0 if validation else split.validation)
        testing, stopping = (max(1, round(share * len(pictures))) if share else 0 for share in shares)
        if len(pictures) < max(_FEWEST, testing + stopping + 1):
            raise DataRejected(f"{found.train}: {len(pictures)} pictures are too few to be divided")
        order = np.random.default_rng(split.seed).permutation(len(pictures)).tolist()
        self._test = test or [pictures[i] for i in order[:testing]]
        self._validation = validation or [pictures[i] for i in order[testing : testing + stopping]]
        self._train = [pictures[i] for i in order[testing + stopping :]]
        file = data.test or found.test
        self.split = (
            f"{file.parent.name}/{file.name} for testing"
            if file
            else f"by picture, {split.test:.0%} for testing, seed {split.seed}"
        )

    def training_set(self) -> TrainingSet:
        """Decode the training part."""
        return decode_training_set((picture.load() for picture in self._train), self._recipe.training_input)

    def validation_files(self) -> Sequence[AnnotatedImage]:
        """Return the validation part."""
        return [picture.load() for picture in self._validation]

    def held_out_files(self) -> Sequence[AnnotatedImage]:
        """Return the test part."""
        return [picture.load() for picture in self._test]


class _CocoFile:
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

    def pictures(self, classes: tuple[str, ...]) -> list[_Picture]:
        """Return the images, with labels as indices into `classes`."""
        if strangers := [name for name in self.used if name not in classes]:
            raise DataRejected(f"{self._path}: category {strangers[0]!r} has no box in what is learnt from")
        pictures = []
        for image in self._images:
            boxes = self._boxes[image.id]
            pictures.append(
                _Picture(
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
                picture = open_picture(path.read_bytes(), 3, max_pixels=Limits().max_pixels)
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
