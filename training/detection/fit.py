"""Fit a detector: a source and a recipe -> the best checkpoint, from scratch or from a checkpoint of ours."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

from training.detection.annotated import DetectionSource, LearningSet, learning_set
from training.detection.detector_learner import DetectorLearner
from training.errors import DataRejected
from training.fit import EpochOrder
from training.job import Job
from training.recipes.detection_recipe import DetectionRecipe
from training.trainer import begin, load_learner, train

_VALIDATION_BATCH = 8


def fit_detector(job: Job[DetectionRecipe], source: DetectionSource, *, resume: bool) -> Path:
    """Train.

    Raises:
        DataRejected: There is nothing to resume or to start from, or nothing to learn from.
    """
    recipe, wanted = job.recipe, job.recipe.optimisation
    start = load_learner(recipe.start, DetectorLearner) if recipe.start else None
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
        taken = take_weights(learner, start)
        job.console.print(f"starts with {taken} weights of {recipe.start}", highlight=False)
    validation = DataLoader(_dataset(stopping), _VALIDATION_BATCH)
    return train(learner, (training, validation), recipe, job.run, job.console, resume=resume)


def take_weights(learner: DetectorLearner, start: DetectorLearner) -> int:
    """Take over what fits; the heat of other classes does not, and is learnt anew.

    Returns:
        How many weights were taken.

    Raises:
        DataRejected: The networks differ in more than their classes.
    """
    own = learner.graph.state_dict()
    same_classes = learner.classes == start.classes
    given = {
        name: weight
        for name, weight in start.graph.state_dict().items()
        if same_classes or not name.startswith("heat.")
    }
    if unlike := [
        name for name, weight in given.items() if name not in own or own[name].shape != weight.shape
    ]:
        raise DataRejected(
            f"the checkpoint's network has another size ({unlike[0]}): give the recipe the same `network`"
        )
    learner.graph.load_state_dict(given, strict=False)
    return sum(weight.numel() for weight in given.values())


def _dataset(learning: LearningSet) -> TensorDataset:
    arrays = (learning.images, learning.boxes_xyxy, learning.labels)
    return TensorDataset(*(torch.from_numpy(array) for array in arrays))
