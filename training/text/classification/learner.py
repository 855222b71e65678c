"""The training module of the text classifier.

Letters in shapes: `B` batch, `T` tokens, `K` classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from training.core.learner import Batch, Learner
from training.networks.byte_classifier import ByteClassifier
from training.recipes.text_recipe import TextClassificationRecipe


class TextClassifierLearner(Learner[TextClassificationRecipe, ByteClassifier]):
    """A text classifier with everything that its training needs.

    Args:
        recipe: The recipe as plain values, from `TextClassificationRecipe.model_dump(mode="json")`.
        classes: The label texts.
        steps: Optimizer steps of the whole training.
    """

    head = "head.2"

    def __init__(self, recipe: dict[str, Any], classes: list[str], steps: int) -> None:
        checked = TextClassificationRecipe.model_validate(recipe)
        super().__init__(checked, ByteClassifier(len(classes), checked.network), steps, classes)
        self.save_hyperparameters()

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        """Return the loss on ids and mask i64 [B, T] and labels i64 [B], -1 for none of the classes.

        For -1 the target is the uniform distribution (D. Hendrycks et al., Deep Anomaly Detection with
        Outlier Exposure, 2018, arXiv:1812.04606, section 3).
        """
        ids, mask, labels = batch
        loss = functional.cross_entropy(
            self.graph.logits(ids, mask),
            soft_targets(labels, len(self.labels)),
            label_smoothing=self.recipe.optimisation.label_smoothing,
        )
        self.log_training(len(labels), {"loss": loss})
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Measure texts and windows."""
        ids, mask, labels = batch
        logits = self.graph.logits(ids, mask)
        loss = functional.cross_entropy(logits, soft_targets(labels, len(self.labels)))
        self.log_validation(len(labels), {"loss": loss})
        named = labels >= 0
        if named.any():
            accuracy = (logits[named].argmax(dim=1) == labels[named]).float().mean()
            self.log_validation(int(named.sum()), {"accuracy": accuracy})


def soft_targets(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Return one-hot targets f32 [B, K] of labels i64 [B], the uniform distribution for -1."""
    named = functional.one_hot(labels.clamp(min=0), classes).to(torch.float32)
    return torch.where((labels >= 0).unsqueeze(1), named, torch.full_like(named, 1 / classes))
