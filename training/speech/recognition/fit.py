"""Fit a speech network: a source and a recipe -> the best checkpoint, from scratch or from our weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from training.core.curves import LEARNING_RATE, Panels, draw_curves
from training.core.job import Job
from training.core.trainer import begin, train
from training.core.warm_start import open_start, take_weights
from training.recipes.speech_recipes import SpeechRecipe
from training.speech.dataset import SpeechSource, SpokenFile
from training.speech.decoding import decoded
from training.speech.recognition.batches import Batch, BatchSize, SpeechBatches, batch_bounds, batch_of
from training.speech.recognition.learner import SpeechLearner
from training.speech.recognition.tokens import numbers_of, tokens_of
from training.text.classification.windows import StepNumbers

_PANELS: Panels = (
    ("loss per letter", {"train_loss_epoch": "learnt from", "validation_loss": "validation"}),
    ("word error rate, letter by letter", {"validation_wer": "validation"}),
    LEARNING_RATE,
)


def fit_speech(job: Job[SpeechRecipe], source: SpeechSource, *, resume: bool) -> Path:
    """Train, and draw how it went.

    Raises:
        DataRejected: There is nothing to resume or to start from, or nothing to learn from.
    """
    recipe, wanted = job.recipe, job.recipe.optimisation
    start = open_start(recipe.start) if recipe.start and not resume else None
    begin(job.run, recipe.seed, resume=resume)
    torch.set_num_threads(max(1, torch.get_num_threads() // recipe.processes))
    spoken = source.training_set()
    tokens = tokens_of(spoken.texts)
    size = BatchSize(round(recipe.batch_seconds * recipe.input.sample_rate), recipe.input.sample_rate)
    batches = SpeechBatches(spoken, tokens, size, recipe.seed)
    steps = max(wanted.least_steps, -(-wanted.passes * batches.steps // recipe.parts))
    training = DataLoader(batches, batch_size=None, sampler=StepNumbers(steps))
    learner = SpeechLearner(recipe.model_dump(mode="json"), list(tokens), wanted.epochs * steps)
    if start:
        said = take_weights(learner.graph, start, learner.tokens, "head")
        job.console.print(said, highlight=False, soft_wrap=True)
    files = source.validation_files()
    job.console.print(
        f"{spoken.description} to learn from, {len(files)} for validation; "
        f"{wanted.epochs} epochs of {steps} steps",
        highlight=False,
        soft_wrap=True,
    )
    loaders = training, _validation(files, tokens, recipe)
    best = train(learner, loaders, recipe, job.run, job.console, resume=resume, processes=recipe.processes)
    draw_curves(job.run.folder, _PANELS)
    return best


def _validation(
    files: Sequence[SpokenFile], tokens: tuple[str, ...], recipe: SpeechRecipe
) -> DataLoader[Any]:
    """Make batches of the validation part, those of like length together."""
    sounds = [decoded(file.content, recipe.input) for file in files]
    order = np.argsort([len(sound) for sound in sounds], kind="stable")
    ordered = [sounds[i] for i in order.tolist()]
    letters = [numbers_of(files[i].text, tokens) for i in order.tolist()]
    most = round(recipe.batch_seconds * recipe.input.sample_rate)
    bounds = batch_bounds(np.array([len(sound) for sound in ordered]), most)
    batches: list[Batch] = [batch_of(ordered[first:last], letters[first:last]) for first, last in bounds]
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
