"""The detector while it learns.

Letters in shapes: `N` batch, `H` `W` size, `G` things in a picture at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule

from training.detection.augmentation import move, relight
from training.detection.losses import Losses, Truth, losses
from training.images.learner import make_optimiser
from training.networks.detector import Detector
from training.recipes.detection_recipe import DetectionRecipe

Batch = Sequence[torch.Tensor]


class DetectorLearner(LightningModule):
    """A detector with what it takes to train it; a checkpoint can be exported by itself.

    Args:
        recipe: As `DetectionRecipe.model_dump(mode="json")` gives it.
        classes: The label texts.
        steps: Optimiser steps of the whole training.
        mirror: Whether a mirrored picture still shows the same things.
    """

    def __init__(self, recipe: dict[str, Any], classes: list[str], steps: int, mirror: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.recipe = DetectionRecipe.model_validate(recipe)
        self.classes = tuple(classes)
        self.graph = Detector(len(classes), self.recipe.network)
        self._composed = self.recipe.data.kind == "scenes"
        self._mirror = mirror
        self._steps = steps

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        """Learn from `images` u8 [N, H, W, 3], `boxes` f32 [N, G, 4] and `labels` i64 [N, G].

        Every step draws from its own generator, so that a resumed run goes on with the same pictures.
        """
        images, boxes, labels = batch
        generator = torch.Generator().manual_seed((self.recipe.seed << 32) + self.global_step)
        truth = Truth(boxes, labels)
        pictures = relight(images, generator, invert=self._composed)
        if not self._composed:
            pictures, truth = move(pictures, truth, generator, mirror=self._mirror)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bfloat16):
            heads = self.graph.heads(pictures)
        found = losses(heads, truth)
        self._log_losses("train", found, len(images), prog_bar=True, on_step=False, on_epoch=True)
        return found.total

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Measure on files as they are."""
        images, boxes, labels = batch
        found = losses(self.graph.heads(images), Truth(boxes, labels))
        self._log_losses("validation", found, len(images), prog_bar=True)

    def _log_losses(self, part: str, found: Losses, items: int, **how: Any) -> None:
        values = {"loss": found.total, "heat": found.heat, "box": found.box, "quality": found.quality}
        self.log_dict({f"{part}_{name}": value for name, value in values.items()}, batch_size=items, **how)

    def configure_optimizers(self) -> Any:
        """Make AdamW and its schedule."""
        return make_optimiser(self, self.recipe.optimisation, self._steps)
