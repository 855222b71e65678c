"""The training of the keyword classifier: data and recipe become batches and a network."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from training.core.curves import Panels
from training.core.fit import TrainingSetup
from training.errors import DataRejected
from training.recipes.speech_recipe import KeywordsRecipe
from training.speech.batches import SoundBatch
from training.speech.dataset import SpeechFile, SpeechSource
from training.speech.decoding import decode_sound
from training.speech.fit import set_up_sounds
from training.speech.keywords.batches import KeywordBatches, batch_of, labels_of
from training.speech.keywords.learner import KeywordLearner

_VALIDATION_BATCH = 64
_PANELS: Panels = (
    ("loss", {"train_loss_epoch": "training", "validation_loss": "validation"}),
    ("accuracy", {"validation_accuracy": "validation"}),
)


def set_up_training(recipe: KeywordsRecipe, source: SpeechSource) -> TrainingSetup:
    """Return network and batches for a training.

    Raises:
        DataRejected: All sounds have the same label, or there is none.
    """
    sounds = source.training_set()
    classes = sorted(set(sounds.texts))
    if len(classes) < 2:
        raise DataRejected("there is nothing to tell apart: every sound has the same label")

    def make_learner(steps: int) -> KeywordLearner:
        learner = KeywordLearner(recipe.model_dump(mode="json"), classes, steps)
        learner.graph.planes.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on CPUs
        return learner

    return set_up_sounds(
        recipe,
        source,
        KeywordBatches(sounds, classes, recipe.optimisation.batch_size, recipe.seed),
        learner=make_learner,
        validation=lambda files: _validation(files, classes, recipe),
        panels=_PANELS,
    )


def _validation(
    files: Sequence[SpeechFile], classes: Sequence[str], recipe: KeywordsRecipe
) -> list[SoundBatch]:
    """Return batches of the validation part, sorted by length."""
    labels = labels_of([file.text for file in files], classes)
    sounds = [decode_sound(file.content, recipe.input) for file in files]
    order = sorted(range(len(sounds)), key=lambda place: len(sounds[place]))
    chunks = (order[first : first + _VALIDATION_BATCH] for first in range(0, len(order), _VALIDATION_BATCH))
    return [batch_of([sounds[place] for place in chunk], labels[chunk]) for chunk in chunks]
