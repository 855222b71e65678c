"""The training of speech recognition: data and recipe become batches and a network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training.core.curves import Panels
from training.core.fit import TrainingSetup
from training.recipes.speech_recipe import SpeechRecipe
from training.speech.batches import SoundBatch
from training.speech.dataset import SpeechFile, SpeechSource
from training.speech.decoding import decode_sound
from training.speech.fit import set_up_sounds
from training.speech.recognition.batches import BatchSize, SpeechBatches, batch_bounds, batch_of
from training.speech.recognition.learner import SpeechLearner
from training.speech.recognition.tokens import encode_text, tokens_of

_PANELS: Panels = (
    ("loss per letter", {"train_loss_epoch": "training", "validation_loss": "validation"}),
    ("word error rate, greedy decoding", {"validation_wer": "validation"}),
)


def set_up_training(recipe: SpeechRecipe, source: SpeechSource) -> TrainingSetup:
    """Return network and batches for a training.

    Raises:
        DataRejected: The training set has no speech.
    """
    sounds = source.training_set()
    tokens = tokens_of(sounds.texts)
    most = round(recipe.batch_seconds * recipe.input.sample_rate)
    size = BatchSize(most, recipe.input.sample_rate)
    return set_up_sounds(
        recipe,
        source,
        SpeechBatches(sounds, tokens, size, recipe.seed),
        learner=lambda steps: SpeechLearner(recipe.model_dump(mode="json"), list(tokens), steps),
        validation=lambda files: _validation(files, tokens, recipe, most),
        panels=_PANELS,
        parts=recipe.parts,
    )


def _validation(
    files: Sequence[SpeechFile], tokens: tuple[str, ...], recipe: SpeechRecipe, most: int
) -> list[SoundBatch]:
    """Return batches of the validation part, sorted by length."""
    sounds = [decode_sound(file.content, recipe.input) for file in files]
    order = np.argsort([len(sound) for sound in sounds], kind="stable")
    ordered = [sounds[i] for i in order.tolist()]
    letters = [encode_text(files[i].text, tokens) for i in order.tolist()]
    bounds = batch_bounds(np.array([len(sound) for sound in ordered]), most)
    return [batch_of(ordered[first:last], letters[first:last]) for first, last in bounds]
