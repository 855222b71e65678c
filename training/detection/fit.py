"""Fit a detector: a source and a recipe -> the best checkpoint, from scratch or from weights of ours."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

from training.core.job import Job
from training.core.trainer import begin, train
from training.core.warm_start import open_start, settle_norms, take_weights
from training.detection.dataset import DetectionSource, LearningSet, learning_set
from training.detection.learner import DetectorLearner
from training.errors import DataRejected
from training.images.fit import EpochOrder
from training.recipes.detection_recipe import DetectionRecipe

_VALIDATION_BATCH = 8


def fit_detector(job: Job[DetectionRecipe], source: DetectionSource, *, resume: bool) -> Path:
    """Train.

    Raises:
        DataRejected: There is nothing to resume or to start from, or nothing to learn from.
    """
    recipe, wanted = job.recipe, job.recipe.optimisation
    start = open_start(recipe.start) if recipe.start and not resume else None
    begin(job.run, recipe.seed, resume=resume)
    learnt = source.training_set()
    stopping = learning_set(source.validation_files(), recipe.input)
    if not (learnt.labels >= 0).any():
        raise DataRejected("there is no box to learn from")
    order = EpochOrder(len(learnt.images), wanted.passes_over(len(learnt.images)), recipe.seed)
    training = DataLoader(
        _dataset(learnt), wanted.batch_size, sampler=order, drop_last=len(order) > wanted.batch_size
    )
    learner = DetectorLearner(
        recipe.model_dump(mode="json"), list(source.classes), wanted.epochs * len(training), source.mirror
    )
    if start:
        said = take_weights(learner.graph, start, learner.classes, "heat")
        job.console.print(said, highlight=False, soft_wrap=True)
        settle_norms(learner.graph, training, lambda batch: learner.graph.heads(batch[0]))
    validation = DataLoader(_dataset(stopping), _VALIDATION_BATCH)
    return train(learner, (training, validation), recipe, job.run, job.console, resume=resume)


def _dataset(learning: LearningSet) -> TensorDataset:
    arrays = (learning.images, learning.boxes_xyxy, learning.labels)
    return TensorDataset(*(torch.from_numpy(array) for array in arrays))
