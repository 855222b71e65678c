"""A user's images with boxes in COCO's format.

T.-Y. Lin et al., Microsoft COCO, 2014 (arXiv:1405.0312): `images` with `id` and `file_name`, `annotations`
with `image_id`, `category_id` and `bbox` (left, top, width and height in pixels), `categories` with `id` and
`name`. Boxes of crowds (`iscrowd: 1`) and boxes outside the image are left out and counted. Boxes that are
partly outside are clipped. Categories without a box in the training part are no labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training.detection.coco_file import CocoFile
from training.detection.coco_layout import find_parts
from training.detection.dataset import AnnotatedImage, TrainingSet, decode_training_set
from training.errors import DataRejected
from training.recipes.detection_recipe import CocoData, DetectionRecipe

_FEWEST = 3  # pictures, one per part


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
        training = CocoFile(found.train, data.images)
        self.classes = training.used
        if not self.classes:
            raise DataRejected(f"{found.train} has no box to learn from")
        pictures = training.pictures(self.classes)
        self.description = training.description
        validation, test = (
            CocoFile(path, None).pictures(self.classes) if path else None
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
