"""A user's pictures with boxes in COCO's format as a source: a folder of files and one JSON file.

T.-Y. Lin et al., Microsoft COCO, 2014 (arXiv:1405.0312): `images` with `id` and `file_name`, `annotations`
with `image_id`, `category_id` and `bbox` (left, top, width and height in pixels), `categories` with `id` and
`name`. Boxes of crowds (`iscrowd: 1`) are left out: they are no single things.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import RequestError
from service.tasks import Limits
from service.tasks.picture_file import open_picture
from training.detection.annotated import AnnotatedFile, LearningSet, learning_set
from training.errors import DataRejected
from training.recipes.detection_recipe import CocoData, DetectionRecipe

_FEWEST = 3  # pictures, one a part
_MOST_NAMED = 20


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Image(_Lenient):
    id: int
    file_name: str


class _Annotation(_Lenient):
    image_id: int
    category_id: int
    bbox: tuple[float, float, Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
    iscrowd: int = 0


class _Category(_Lenient):
    id: int
    name: str


class _Document(_Lenient):
    images: tuple[_Image, ...]
    annotations: tuple[_Annotation, ...]
    categories: Annotated[tuple[_Category, ...], Field(min_length=1)]


class CocoFolder:
    """Pictures and boxes of a COCO file; see `DetectionSource`.

    Args:
        recipe: Where they are, and how they are divided.

    Raises:
        DataRejected: The JSON file or a picture is missing or broken, or a box names what is not there;
            the text names it.
    """

    def __init__(self, recipe: DetectionRecipe) -> None:
        assert isinstance(recipe.data, CocoData), "a recipe without a COCO file"
        data = recipe.data
        self._recipe = recipe
        self.mirror = data.mirror
        self.classes, files = _read(data.annotations, data.images, None)
        if data.test_annotations:
            folder = data.test_images or data.images
            _, self._test = _read(data.test_annotations, folder, self.classes)
            self.split = f"{data.test_annotations.name} for testing"
            shares = (0.0, recipe.split.validation)
        else:
            self.split = f"by picture, {recipe.split.test:.0%} for testing, seed {recipe.split.seed}"
            shares = (recipe.split.test, recipe.split.validation)
        order = np.random.default_rng(recipe.split.seed).permutation(len(files))
        test, validation = (max(1, round(share * len(files))) if share else 0 for share in shares)
        if len(files) < max(_FEWEST, test + validation + 1):
            raise DataRejected(f"{data.annotations}: {len(files)} pictures are too few to be divided")
        if not data.test_annotations:
            self._test = [files[i] for i in order[:test]]
        self._validation = [files[i] for i in order[test : test + validation]]
        self._train = [files[i] for i in order[test + validation :]]
        things = sum(len(file.labels) for file in files)
        self.description = (
            f"COCO file {data.annotations.name} of {len(files)} pictures with {things} boxes: "
            + ", ".join(self.classes)
        )

    def training_set(self) -> LearningSet:
        """Decode the pictures to learn from."""
        return learning_set(self._train, self._recipe.training_input)

    def validation_files(self) -> Sequence[AnnotatedFile]:
        """Give the pictures to stop by."""
        return self._validation

    def held_out_files(self) -> Sequence[AnnotatedFile]:
        """Give the test part."""
        return self._test


def _read(
    path: Path, folder: Path, classes: tuple[str, ...] | None
) -> tuple[tuple[str, ...], list[AnnotatedFile]]:
    """Read a COCO file; returns the label texts, in the order of their ids, and the pictures."""
    document = _parse(path)
    names = {category.id: category.name for category in document.categories}
    labels = tuple(names[number] for number in sorted(names))
    if len(set(labels)) != len(labels) or len(names) != len(document.categories):
        raise DataRejected(f"{path}: two categories have the same id or name")
    if classes is not None and not set(labels) <= set(classes):
        raise DataRejected(
            f"{path}: category {sorted(set(labels) - set(classes))[0]!r} is not in the training file"
        )
    known = classes or labels
    boxes: dict[int, list[tuple[float, float, float, float, int]]] = defaultdict(list)
    images = {image.id for image in document.images}
    for number, annotation in enumerate(document.annotations):
        if annotation.image_id not in images:
            raise DataRejected(
                f"{path}: annotations.{number} is of image {annotation.image_id}, which is not there"
            )
        if annotation.category_id not in names:
            raise DataRejected(
                f"{path}: annotations.{number} is of category {annotation.category_id}, which is not there"
            )
        if not annotation.iscrowd:
            left, top, width, height = annotation.bbox
            label = known.index(names[annotation.category_id])
            boxes[annotation.image_id].append((left, top, left + width, top + height, label))
    _check_pictures([folder / image.file_name for image in document.images])
    return known, [_annotated(folder / image.file_name, boxes[image.id]) for image in document.images]


def _parse(path: Path) -> _Document:
    try:
        return _Document.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataRejected(f"there is no COCO file {path}") from error
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"]) or "the file"
        raise DataRejected(f"{path}: {place}: {problem['msg']}") from error


def _check_pictures(paths: Sequence[Path]) -> None:
    broken = []
    for path in paths:
        try:
            open_picture(path.read_bytes(), 3, max_pixels=Limits().max_pixels)
        except (OSError, RequestError) as error:
            broken.append(f"{path}: {error}")
    if broken:
        more = [f"and {len(broken) - _MOST_NAMED} more"] if len(broken) > _MOST_NAMED else []
        listed = "\n  ".join([*broken[:_MOST_NAMED], *more])
        raise DataRejected(f"{len(broken)} pictures of the COCO file cannot be read:\n  {listed}")


def _annotated(path: Path, boxes: Sequence[tuple[float, float, float, float, int]]) -> AnnotatedFile:
    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as picture:
        limit = [*picture.size] * 2 if picture.getexif().get(0x0112, 1) < 5 else [*picture.size[::-1]] * 2
    edges = np.array([box[:4] for box in boxes], dtype=np.float64).reshape(-1, 4).clip(0, limit)
    return AnnotatedFile(path.name, content, edges, np.array([box[4] for box in boxes], dtype=np.int64))
