"""Fit a network: the same procedure for every kind of model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from training.core.curves import Panels, draw_curves
from training.core.job import Job
from training.core.learner import Learner
from training.core.trainer import prepare_run, train
from training.core.warm_start import load_weights, read_pretrained, recalibrate_norms


@dataclass(frozen=True, slots=True)
class TrainingSetup:
    """What a modality supplies for a training.

    Attributes:
        learner: The untrained network.
        training: Batches to train on.
        validation: Batches for early stopping and for the choice of the best checkpoint.
        summary: A line to print before training starts.
        panels: Curves to draw after the training; None draws none.
        processes: Number of training processes that share each batch.
    """

    learner: Learner[Any, Any]
    training: DataLoader[Any]
    validation: DataLoader[Any]
    summary: str = ""
    panels: Panels | None = None
    processes: int = 1


def fit(job: Job[Any], set_up: Callable[[], TrainingSetup], *, resume: bool) -> Path:
    """Train a network, from scratch or from pretrained weights.

    Args:
        job: The recipe and the run folder. Without `resume`, the files of an earlier fit are replaced.
        set_up: Reads the training data and creates the network; called after all generators are seeded.
        resume: Continue after the last complete epoch.

    Returns:
        The best checkpoint.

    Raises:
        DataRejected: There is nothing to resume or to start from, or the data do not fit the recipe.
    """
    recipe = job.recipe
    pretrained = read_pretrained(recipe.start) if recipe.start and not resume else None
    prepare_run(job.run, recipe.seed, resume=resume)
    setup = set_up()
    learner = setup.learner
    if pretrained:
        job.say(load_weights(learner.graph, pretrained, learner.labels, learner.head))
        recalibrate_norms(learner.graph, setup.training, learner)
    if setup.summary:
        job.say(setup.summary)
    loaders = setup.training, setup.validation
    best = train(learner, loaders, recipe, job.run, job.console, resume=resume, processes=setup.processes)
    if setup.panels:
        draw_curves(job.run.folder, setup.panels)
    return best
