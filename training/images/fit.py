"""The training of the image classifier: data and recipe become batches and a network."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, TensorDataset

from training.core.fit import TrainingSetup
from training.core.samplers import ShuffledItems
from training.data.split import Parts, class_weights, stratified_parts
from training.images.learner import ImageLearner
from training.images.predict import HeldOut, held_out
from training.images.source import ImageSource, decode_files, open_source
from training.recipes.image_recipe import ImageRecipe

_VALIDATION_SEED = 1_000_003  # seed of redrawn validation images; the test part has another one


@dataclass(frozen=True)
class ImageData:
    """The recipe's images and their parts.

    Attributes:
        source: The images.
        parts: Indices of each part.
        split: How the test part was chosen.
    """

    source: ImageSource
    parts: Parts
    split: str

    @property
    def description(self) -> str:
        """What the data are."""
        return self.source.description

    @cached_property
    def held_out(self) -> HeldOut:
        """The raw files of the test part."""
        return held_out(self.source, self.parts.test)


def open_data(recipe: ImageRecipe) -> ImageData:
    """Load the recipe's images and divide them."""
    source = open_source(recipe)
    split = f"stratified, {recipe.split.test:.0%} for testing, seed {recipe.split.seed}"
    return ImageData(source, stratified_parts(source.labels, recipe.split), split)


def set_up_training(recipe: ImageRecipe, data: ImageData) -> TrainingSetup:
    """Return network and batches for a training."""
    source, parts, settings = data.source, data.parts, recipe.optimisation
    augmentation = source.augmentation()
    pixels = np.concatenate([source.pixels[parts.train], source.extra_pixels])
    labels = training_labels(source, parts)
    images = TensorDataset(augmentation.prepare(torch.from_numpy(pixels)), torch.from_numpy(labels))
    order = ShuffledItems(len(images), settings.passes_over(len(images)), recipe.seed)
    # A last batch of one image has no batch statistics.
    uneven = len(order) % settings.batch_size == 1
    training = DataLoader(images, settings.batch_size, sampler=order, drop_last=uneven)
    learner = ImageLearner(
        recipe.model_dump(mode="json"),
        list(source.classes),
        class_weights(labels, len(source.classes)).tolist(),
        settings.epochs * len(training),
    )
    learner.augmentation = augmentation
    return TrainingSetup(
        learner, training, DataLoader(_validation_set(recipe, source, parts), batch_size=256)
    )


def training_labels(source: ImageSource, parts: Parts) -> NDArray[np.int64]:
    """Return the labels of the training part, then of the extra images."""
    return np.concatenate([source.labels[parts.train], source.extra_labels])


def _validation_set(recipe: ImageRecipe, source: ImageSource, parts: Parts) -> TensorDataset:
    """Decode the validation part from files, plain and redrawn: u8 [M, H, W, C], i64 [M]."""
    labels = source.labels[parts.validation]
    files = source.files(parts.validation)
    redrawn = [redrawing.file for redrawing in source.redrawn(parts.validation, _VALIDATION_SEED)]
    images = decode_files(files + redrawn, recipe.input)
    both = np.concatenate([labels, np.repeat(labels, source.redrawings)])
    return TensorDataset(torch.from_numpy(images), torch.from_numpy(both))
