"""The training of the detector: data and recipe become batches and a network."""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader, TensorDataset

from training.core.fit import TrainingSetup
from training.core.samplers import ShuffledItems
from training.detection.dataset import DetectionSource, TrainingSet, decode_training_set
from training.detection.learner import DetectorLearner
from training.errors import DataRejected
from training.recipes.detection_recipe import DetectionRecipe

_VALIDATION_BATCH = 8


def set_up_training(recipe: DetectionRecipe, source: DetectionSource) -> TrainingSetup:
    """Return network and batches for a training.

    Raises:
        DataRejected: The training part has no box.
    """
    settings = recipe.optimisation
    training = source.training_set()
    validation = decode_training_set(source.validation_files(), recipe.input)
    if not (training.labels >= 0).any():
        raise DataRejected("there is no box to learn from")
    count = len(training.images)
    order = ShuffledItems(count, settings.passes_over(count), recipe.seed)
    batches = DataLoader(
        _dataset(training), settings.batch_size, sampler=order, drop_last=len(order) > settings.batch_size
    )
    learner = DetectorLearner(
        recipe.model_dump(mode="json"), list(source.classes), settings.epochs * len(batches), source.mirror
    )
    return TrainingSetup(learner, batches, DataLoader(_dataset(validation), _VALIDATION_BATCH))


def _dataset(images: TrainingSet) -> TensorDataset:
    arrays = (images.images, images.boxes_xyxy, images.labels)
    return TensorDataset(*(torch.from_numpy(array) for array in arrays))
