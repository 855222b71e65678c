"""The text classifier while it learns.

Letters in shapes: `B` batch, `T` tokens, `K` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch.nn import functional

from training.images.learner import make_optimiser
from training.networks.byte_classifier import ByteClassifier
from training.recipes.text_recipes import TextLabelsRecipe

Batch = Sequence[torch.Tensor]


class LabelLearner(LightningModule):
    """A text classifier with what it takes to train it; a checkpoint can be exported by itself.

    Attributes:
        unknown_below: The threshold for `unknown`, found after the training; None is no threshold.

    Args:
        recipe: As `TextLabelsRecipe.model_dump(mode="json")` gives it.
        classes: The label texts.
        steps: Optimiser steps of the whole training.
    """

    def __init__(self, recipe: dict[str, Any], classes: list[str], steps: int) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.recipe = TextLabelsRecipe.model_validate(recipe)
        self.classes = tuple(classes)
        self.graph = ByteClassifier(len(classes), self.recipe.network)
        self._steps = steps

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        """Learn from ids and mask i64 [B, T] and labels i64 [B]; a label of -1 is none of the classes.

        For those the target is to be unsure: every class alike (D. Hendrycks et al., Deep Anomaly
        Detection with Outlier Exposure, 2018, arXiv:1812.04606, section 3).
        """
        ids, mask, labels = batch
        loss = functional.cross_entropy(
            self.graph.logits(ids, mask),
            soft_targets(labels, len(self.classes)),
            label_smoothing=self.recipe.optimisation.label_smoothing,
        )
        self.log("train_loss", loss, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(labels))
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Measure on texts and windows."""
        ids, mask, labels = batch
        logits = self.graph.logits(ids, mask)
        loss = functional.cross_entropy(logits, soft_targets(labels, len(self.classes)))
        self.log("validation_loss", loss, prog_bar=True, batch_size=len(labels))
        named = labels >= 0
        if named.any():
            accuracy = (logits[named].argmax(dim=1) == labels[named]).float().mean()
            self.log("validation_accuracy", accuracy, prog_bar=True, batch_size=int(named.sum()))

    def configure_optimizers(self) -> Any:
        """Make AdamW and its schedule."""
        return make_optimiser(self, self.recipe.optimisation, self._steps)


def soft_targets(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Turn labels i64 [B] into f32 [B, K]: all on the label, or spread evenly where it is -1."""
    named = functional.one_hot(labels.clamp(min=0), classes).to(torch.float32)
    return torch.where((labels >= 0).unsqueeze(1), named, torch.full_like(named, 1 / classes))
