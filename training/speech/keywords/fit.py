"""Fit a classifier of short sounds: a source and a recipe -> the best checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from training.core.curves import LEARNING_RATE, Panels, draw_curves
from training.core.job import Job
from training.core.trainer import begin, train
from training.core.warm_start import open_start, settle_norms, take_weights
from training.errors import DataRejected
from training.recipes.speech_recipes import KeywordsRecipe
from training.speech.dataset import SpeechSource, SpokenFile
from training.speech.decoding import decoded
from training.speech.keywords.batches import Batch, KeywordBatches, batch_of, labels_of
from training.speech.keywords.learner import KeywordLearner
from training.speech.recognition.learner import FULL_SCALE
from training.text.classification.windows import StepNumbers

_VALIDATED_TOGETHER = 64
_PANELS: Panels = (
    ("loss", {"train_loss_epoch": "learnt from", "validation_loss": "validation"}),
    ("share of right answers", {"validation_accuracy": "validation"}),
    LEARNING_RATE,
)


def fit_keywords(job: Job[KeywordsRecipe], source: SpeechSource, *, resume: bool) -> Path:
    """Train, from scratch or from weights of ours.

    Raises:
        DataRejected: There is nothing to resume or to start from, or nothing to tell apart.
    """
    recipe, wanted = job.recipe, job.recipe.optimisation
    start = open_start(recipe.start) if recipe.start and not resume else None
    begin(job.run, recipe.seed, resume=resume)
    torch.set_num_threads(max(1, torch.get_num_threads() // recipe.processes))
    spoken = source.training_set()
    classes = sorted(set(spoken.texts))
    if len(classes) < 2:
        raise DataRejected("there is nothing to tell apart: every sound has the same label")
    batches = KeywordBatches(spoken, classes, wanted.batch_size, recipe.seed)
    steps = max(wanted.least_steps, wanted.passes * batches.steps)
    learner = KeywordLearner(recipe.model_dump(mode="json"), classes, wanted.epochs * steps)
    training = DataLoader(batches, batch_size=None, sampler=StepNumbers(steps))
    if start:
        said = take_weights(learner.graph, start, learner.classes, "head")
        job.console.print(said, highlight=False, soft_wrap=True)
        settle_norms(
            learner.graph, training, lambda batch: learner.graph(batch[0].float() / FULL_SCALE, batch[1])
        )
    learner.graph.planes.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on CPUs
    files = source.validation_files()
    job.console.print(
        f"{spoken.description} of {len(classes)} labels to learn from, {len(files)} for validation; "
        f"{wanted.epochs} epochs of {steps} steps",
        highlight=False,
        soft_wrap=True,
    )
    loaders = training, _validation(files, classes, recipe)
    best = train(learner, loaders, recipe, job.run, job.console, resume=resume, processes=recipe.processes)
    draw_curves(job.run.folder, _PANELS)
    return best


def _validation(
    files: Sequence[SpokenFile], classes: Sequence[str], recipe: KeywordsRecipe
) -> DataLoader[Batch]:
    """Make batches of the validation part, those of like length together."""
    labels = labels_of([file.text for file in files], classes)
    sounds = [decoded(file.content, recipe.input) for file in files]
    order = sorted(range(len(sounds)), key=lambda place: len(sounds[place]))
    batches = [
        batch_of([sounds[place] for place in chosen], labels[chosen])
        for chosen in (
            order[first : first + _VALIDATED_TOGETHER] for first in range(0, len(order), _VALIDATED_TOGETHER)
        )
    ]
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
