"""The training module of the image classifier.

Letters in shapes: `B` batch, `H` `W` the graph's size, `C` channels, `K` classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from training.core.learner import Batch, Learner
from training.images.source import Augmentation
from training.networks.resnet import ImageClassifier
from training.recipes.image_recipe import ImageRecipe


class ImageLearner(Learner[ImageRecipe, ImageClassifier]):
    """An image classifier with everything that its training needs.

    Args:
        recipe: The recipe as plain values, from `ImageRecipe.model_dump(mode="json")`.
        classes: The label texts.
        class_weights: K numbers, the weight of each class in the loss.
        steps: Optimizer steps of the whole training.
    """

    head = "network.head"

    def __init__(
        self, recipe: dict[str, Any], classes: list[str], class_weights: list[float], steps: int
    ) -> None:
        checked = ImageRecipe.model_validate(recipe)
        graph = ImageClassifier(checked.input.channels, len(classes), checked.network)
        super().__init__(checked, graph, steps, classes)
        self.save_hyperparameters()
        self.augmentation: Augmentation | None = None  # only for training; not in a checkpoint
        self.register_buffer("class_weights", torch.tensor(class_weights), persistent=False)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the logits f32 [B, K] of an augmented training batch."""
        assert self.augmentation is not None, "training needs an augmentation"
        images = self.augmentation(batch[0], self.step_generator())
        return self.graph.logits(images)

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        """Return the loss on prepared images, B rows, and labels i64 [B]."""
        loss = functional.cross_entropy(
            self(batch),
            batch[1],
            weight=self.get_buffer("class_weights"),
            label_smoothing=self.recipe.optimisation.label_smoothing,
        )
        self.log_training(len(batch[1]), {"loss": loss})
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Measure images u8 [B, H, W, C], decoded from files, against labels i64 [B]."""
        images, labels = batch
        logits = self.graph.logits(images)
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        loss = functional.cross_entropy(logits, labels)
        self.log_validation(len(labels), {"loss": loss, "accuracy": accuracy})
