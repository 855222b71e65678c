"""The training module of the detector.

Letters in shapes: `N` batch, `H` `W` size, `G` maximum number of objects per image.
"""

from __future__ import annotations

from typing import Any

import torch

from training.core.learner import Batch, Learner
from training.detection.augmentation import change_colors, move_images
from training.detection.losses import Losses, Targets, losses
from training.networks.detector import Detector, DetectorOutputs
from training.recipes.detection_recipe import DetectionRecipe


class DetectorLearner(Learner[DetectionRecipe, Detector]):
    """A detector with everything that its training needs.

    Args:
        recipe: The recipe as plain values, from `DetectionRecipe.model_dump(mode="json")`.
        classes: The label texts.
        steps: Optimizer steps of the whole training.
        mirror: Whether a mirrored image still shows the same objects.
    """

    head = "heat"

    def __init__(self, recipe: dict[str, Any], classes: list[str], steps: int, mirror: bool = False) -> None:
        checked = DetectionRecipe.model_validate(recipe)
        super().__init__(checked, Detector(len(classes), checked.network), steps, classes)
        self.save_hyperparameters()
        self._synthetic = checked.data.kind == "scenes"
        self._mirror = mirror

    def forward(self, batch: Batch) -> DetectorOutputs:
        """Return the network's outputs for the images of a training batch."""
        return self.graph.heads(batch[0])

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        """Return the loss on images u8 [N, H, W, 3], boxes f32 [N, G, 4] and labels i64 [N, G]."""
        images, boxes, labels = batch
        generator = self.step_generator()
        targets = Targets(boxes, labels)
        pictures = change_colors(images, generator, invert=self._synthetic)
        if not self._synthetic:
            pictures, targets = move_images(pictures, targets, generator, mirror=self._mirror)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bfloat16):
            heads = self.graph.heads(pictures)
        found = losses(heads, targets)
        self.log_training(len(images), _named(found))
        return found.total

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Measure images without augmentation."""
        images, boxes, labels = batch
        self.log_validation(len(images), _named(losses(self(batch), Targets(boxes, labels))))


def _named(found: Losses) -> dict[str, torch.Tensor]:
    return {"loss": found.total, "heat": found.heat, "box": found.box, "quality": found.quality}
