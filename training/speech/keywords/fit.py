"""Fit a classifier of short sounds: a source and a recipe -> the best checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from training.errors import DataRejected
from training.job import Job
from training.recipes.speech_recipes import KeywordsRecipe
from training.speech.curves import LEARNING_RATE, Panels, draw_curves
from training.speech.keywords.batches import Batch, KeywordBatches, batch_of, labels_of
from training.speech.keywords.learner import KeywordLearner
from training.speech.sounds import decoded
from training.speech.utterances import SpeechSource, SpokenFile
from training.text.windows import StepNumbers
from training.trainer import begin, load_learner, train

_VALIDATED_TOGETHER = 64
_PANELS: Panels = (
    ("loss", {"train_loss_epoch": "learnt from", "validation_loss": "validation"}),
    ("share of right answers", {"validation_accuracy": "validation"}),
    LEARNING_RATE,
)


def fit_keywords(job: Job[KeywordsRecipe], source: SpeechSource, *, resume: bool) -> Path:
    """Train, from scratch or from a checkpoint of ours.

    Raises:
        DataRejected: There is nothing to resume or to start from, or nothing to tell apart.
    """
    recipe, wanted = job.recipe, job.recipe.optimisation
    start = load_learner(recipe.start, KeywordLearner) if recipe.start else None
    begin(job.run, recipe.seed, resume=resume)
    torch.set_num_threads(max(1, torch.get_num_threads() // recipe.processes))
    spoken = source.training_set()
    classes = sorted(set(spoken.texts))
    if len(classes) < 2:
        raise DataRejected("there is nothing to tell apart: every sound has the same label")
    batches = KeywordBatches(spoken, classes, wanted.batch_size, recipe.seed)
    steps = max(wanted.least_steps, wanted.passes * batches.steps)
    learner = KeywordLearner(recipe.model_dump(mode="json"), classes, wanted.epochs * steps)
    if start:
        taken = take_weights(learner, start)
        job.console.print(f"starts with {taken} weights of {recipe.start}", highlight=False)
    learner.graph.planes.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on CPUs
    files = source.validation_files()
    job.console.print(
        f"{len(spoken)} sounds of {len(classes)} labels to learn from, {len(files)} for validation; "
        f"{wanted.epochs} epochs of {steps} steps",
        highlight=False,
    )
    training = DataLoader(batches, batch_size=None, sampler=StepNumbers(steps))
    loaders = training, _validation(files, classes, recipe)
    best = train(learner, loaders, recipe, job.run, job.console, resume=resume, processes=recipe.processes)
    draw_curves(job.run.folder, _PANELS)
    return best


def take_weights(learner: KeywordLearner, start: KeywordLearner) -> int:
    """Take over what fits; where the labels are others, how to tell them is learnt anew.

    Returns:
        How many weights were taken.

    Raises:
        DataRejected: The networks differ in more than their labels.
    """
    own = learner.graph.state_dict()
    same = learner.classes == start.classes
    given = {
        name: weight
        for name, weight in start.graph.state_dict().items()
        if same or not name.startswith("head.")
    }
    for name, weight in given.items():
        if name not in own or own[name].shape != weight.shape:
            raise DataRejected(f"the checkpoint's network has another size ({name}): give the same `widths`")
    learner.graph.load_state_dict(given, strict=False)
    return sum(weight.numel() for weight in given.values())


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
