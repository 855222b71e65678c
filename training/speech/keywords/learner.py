"""The training module of the keyword classifier.

Letters in shapes: `N` batch, `T` samples, `K` classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from training.core.learner import Batch
from training.networks.sound_classifier import SoundClassifier, SoundFront
from training.recipes.speech_recipe import KeywordsRecipe
from training.speech.learner import SoundLearner


class KeywordLearner(SoundLearner[KeywordsRecipe, SoundClassifier]):
    """A sound classifier with everything that its training needs.

    Args:
        recipe: The recipe as plain values, from `KeywordsRecipe.model_dump(mode="json")`.
        classes: K label texts.
        steps: Optimizer steps of the whole training.
    """

    def __init__(self, recipe: dict[str, Any], classes: list[str], steps: int) -> None:
        checked = KeywordsRecipe.model_validate(recipe)
        front = SoundFront(checked.input.sample_rate, checked.mels, checked.hop_seconds)
        graph = SoundClassifier(front, checked.widths, checked.dropout, len(classes))
        super().__init__(checked, graph, steps, classes)
        self.save_hyperparameters()

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the logits f32 [N, K] of a batch without augmentation."""
        return self.graph.logits(*self.features(batch[0], batch[1]))

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        """Return the loss on audio i16 [N, T], lengths i64 [N] and labels i64 [N]."""
        audio, lengths, labels = batch
        features = self.features(audio, lengths, augmented=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bfloat16):
            logits = self.graph.logits(*features)
        smoothing = self.recipe.optimisation.label_smoothing
        loss = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
        self.log_training(len(labels), {"loss": loss}, each_step=True)
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Measure sounds without augmentation."""
        logits, labels = self(batch), batch[2]
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        loss = functional.cross_entropy(logits, labels)
        self.log_validation(len(labels), {"loss": loss, "accuracy": accuracy})
