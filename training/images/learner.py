"""The network while it learns: loss, schedule and figures as Lightning's Trainer wants them.

Letters in shapes: `B` batch, `H` `W` the graph's size, `C` channels, `K` classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.nn import functional

from training.images.source import Augmentation
from training.networks.resnet import PictureClassifier
from training.recipes.recipe import Optimisation, PictureRecipe

Batch = Sequence[torch.Tensor]


class Learner(LightningModule):
    """A picture classifier with what it takes to train it.

    A checkpoint holds the recipe and the labels, so that it can be evaluated and exported by itself.

    Args:
        recipe: The recipe as plain values, as `PictureRecipe.model_dump(mode="json")` gives them.
        classes: The label texts.
        class_weights: K numbers, the weight of each class in the loss.
        steps: Optimiser steps of the whole training.
    """

    def __init__(
        self, recipe: dict[str, Any], classes: list[str], class_weights: list[float], steps: int
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.recipe = PictureRecipe.model_validate(recipe)
        self.classes = tuple(classes)
        self.graph = PictureClassifier(self.recipe.input.channels, len(classes), self.recipe.network)
        self.augmentation: Augmentation | None = None  # given by `fit`; a checkpoint needs none
        self.register_buffer("class_weights", torch.tensor(class_weights), persistent=False)
        self._steps = steps

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        """Learn from prepared `pictures`, B rows, and `labels` i64 [B].

        Every step draws from its own generator, so that a resumed run goes on with the same pictures.
        """
        pictures, labels = batch
        assert self.augmentation is not None, "fit must give the learner an augmentation"
        generator = torch.Generator().manual_seed((self.recipe.seed << 32) + self.global_step)
        logits = self.graph.logits(self.augmentation(pictures, generator))
        loss = functional.cross_entropy(
            logits,
            labels,
            weight=self.get_buffer("class_weights"),
            label_smoothing=self.recipe.optimisation.label_smoothing,
        )
        self.log("train_loss", loss, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(labels))
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Measure `images` u8 [B, H, W, C], decoded from files, against `labels` i64 [B]."""
        images, labels = batch
        logits = self.graph.logits(images)
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        loss = functional.cross_entropy(logits, labels)
        self.log("validation_loss", loss, prog_bar=True, batch_size=len(labels))
        self.log("validation_accuracy", accuracy, prog_bar=True, batch_size=len(labels))

    def configure_optimizers(self) -> Any:
        """Make AdamW and its schedule."""
        return make_optimiser(self, self.recipe.optimisation, self._steps)


def make_optimiser(module: nn.Module, wanted: Optimisation, steps: int) -> dict[str, Any]:
    """Make AdamW (arXiv:1711.05101) and its schedule; biases and norms are not decayed.

    Args:
        module: Whose parameters are learnt.
        wanted: What the recipe says.
        steps: Optimiser steps of the whole training.

    Returns:
        What Lightning's `configure_optimizers` wants.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": wanted.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=wanted.learning_rate,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: learning_rate_factor(step, steps, wanted.warm_up)
    )
    return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def learning_rate_factor(step: int, steps: int, warm_up: float) -> float:
    """Rise in a line over the warm-up, then fall along a cosine (arXiv:1608.03983, equation 5).

    Args:
        step: Optimiser steps done, 0 to `steps`.
        steps: Of the whole training.
        warm_up: Share of the steps.

    Returns:
        0–1, to be multiplied with the highest learning rate.
    """
    rising = warm_up * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    done = min(1.0, (step - rising) / max(1.0, steps - rising))
    return 0.5 * (1 + math.cos(math.pi * done))
