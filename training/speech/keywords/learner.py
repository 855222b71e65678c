"""The classifier of short sounds while it learns.

Letters in shapes: `N` batch, `T` samples, `K` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch.nn import functional

from training.images.learner import make_optimiser
from training.networks.sound_classifier import SoundClassifier, SoundFront
from training.recipes.speech_recipes import KeywordsRecipe
from training.speech.augmentation import mask_features, vary
from training.speech.batches import place_among_processes
from training.speech.recognition.learner import FULL_SCALE

Batch = Sequence[torch.Tensor]


class KeywordLearner(LightningModule):
    """A sound classifier with what it takes to train it; a checkpoint can be exported by itself.

    Args:
        recipe: As `KeywordsRecipe.model_dump(mode="json")` gives it.
        classes: K label texts.
        steps: Optimiser steps of the whole training.
    """

    def __init__(self, recipe: dict[str, Any], classes: list[str], steps: int) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.recipe = KeywordsRecipe.model_validate(recipe)
        self.classes = tuple(classes)
        front = SoundFront(self.recipe.input.sample_rate, self.recipe.mels, self.recipe.hop_seconds)
        self.graph = SoundClassifier(front, self.recipe.widths, self.recipe.dropout, len(classes))
        self._steps = steps

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        """Learn from audio i16 [N, T], lengths i64 [N] and labels i64 [N].

        Every step of every process draws from its own generator, so that a resumed run goes on with the
        same sounds.
        """
        audio, lengths, labels = batch
        place, processes = place_among_processes()
        generator = torch.Generator().manual_seed(
            (self.recipe.seed << 32) + self.global_step * processes + place
        )
        with torch.no_grad():
            rate = self.recipe.input.sample_rate
            audio, lengths = vary(audio.float() / FULL_SCALE, lengths, generator, rate)
            features, frames = self.graph.log_mel(audio, lengths)
            features = mask_features(features.transpose(1, 2), frames, generator).transpose(1, 2)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bfloat16):
            logits = self.graph.logits(features, frames)
        smoothing = self.recipe.optimisation.label_smoothing
        loss = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
        self.log("train_loss", loss, prog_bar=True, on_step=True, on_epoch=True, batch_size=len(labels))
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Measure on sounds as they are."""
        audio, lengths, labels = batch
        logits = self.graph.logits(*self.graph.log_mel(audio.float() / FULL_SCALE, lengths))
        loss = functional.cross_entropy(logits, labels)
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        self.log("validation_loss", loss, prog_bar=True, batch_size=len(labels))
        self.log("validation_accuracy", accuracy, prog_bar=True, batch_size=len(labels))

    def configure_optimizers(self) -> Any:
        """Make AdamW and its schedule."""
        return make_optimiser(self, self.recipe.optimisation, self._steps)
