"""What the trainings for sounds have in common: the setup and the panels of curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.utils.data import DataLoader

from training.core.curves import LEARNING_RATE, Panels
from training.core.fit import TrainingSetup
from training.core.samplers import StepNumbers
from training.recipes.speech_recipe import KeywordsRecipe, SpeechRecipe
from training.speech.batches import SoundBatch, SoundBatches
from training.speech.dataset import SpeechFile, SpeechSource
from training.speech.learner import SoundLearner


def set_up_sounds(
    recipe: KeywordsRecipe | SpeechRecipe,
    source: SpeechSource,
    batches: SoundBatches,
    *,
    learner: Callable[[int], SoundLearner[Any, Any]],
    validation: Callable[[Sequence[SpeechFile]], list[SoundBatch]],
    panels: Panels,
    parts: int = 1,
) -> TrainingSetup:
    """Return network and batches for a training.

    Args:
        recipe: The recipe.
        source: The data.
        batches: The training batches.
        learner: Makes the network, for so many optimizer steps of the whole training.
        validation: Makes batches of the validation files.
        panels: Curves to draw; the learning rate is added.
        parts: Epochs that one pass over the training set is divided into.
    """
    settings = recipe.optimisation
    steps = max(settings.least_steps, -(-settings.passes * batches.steps // parts))
    files = source.validation_files()
    return TrainingSetup(
        learner(settings.epochs * steps),
        DataLoader(batches, batch_size=None, sampler=StepNumbers(steps)),
        DataLoader(validation(files), batch_size=None),  # type: ignore[arg-type]
        f"{batches.sounds.description} for training, {len(files)} for validation; "
        f"{settings.epochs} epochs of {steps} steps",
        (*panels, LEARNING_RATE),
        recipe.processes,
    )
