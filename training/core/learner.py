"""The base class of every Lightning module: a network with its recipe, random numbers and optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import torch
from lightning.pytorch import LightningModule
from torch import distributed, nn

from training.core.optimizer import make_optimizer
from training.recipes.recipe import Recipe

Batch = Sequence[torch.Tensor]
RecipeKind = TypeVar("RecipeKind", bound=Recipe)
Network = TypeVar("Network", bound=nn.Module)


class Learner(LightningModule, Generic[RecipeKind, Network]):
    """A network with everything that its training needs.

    A subclass takes the recipe as plain values, so that a checkpoint contains it and can be evaluated and
    exported without other files. It adds `training_step` and `validation_step`. If the network has batch
    norms, it also adds `forward`, which runs the network on a training batch.

    Attributes:
        head: Name of the network's last layer, which depends on the labels.
        recipe: The recipe.
        graph: The network that is exported.
        labels: What the last layer distinguishes: label texts or tokens; empty if it has neither.

    Args:
        recipe: The recipe.
        graph: The network.
        steps: Optimizer steps of the whole training.
        labels: As the attribute.
    """

    head: ClassVar[str] = ""

    def __init__(self, recipe: RecipeKind, graph: Network, steps: int, labels: Sequence[str] = ()) -> None:
        super().__init__()
        self.recipe = recipe
        self.graph = graph
        self.labels = tuple(labels)
        self._steps = steps

    def step_seed(self) -> int:
        """Return the seed of this optimizer step and this process, so that a resumed run repeats it."""
        rank, processes = process_rank()
        return (self.recipe.seed << 32) + self.global_step * processes + rank

    def step_generator(self) -> torch.Generator:
        """Return a random generator for this step."""
        return torch.Generator().manual_seed(self.step_seed())

    def log_training(
        self, items: int, values: Mapping[str, torch.Tensor], *, each_step: bool = False
    ) -> None:
        """Log values of a training batch as `train_NAME`; epochs get the mean over items."""
        named = {f"train_{name}": value for name, value in values.items()}
        self.log_dict(named, prog_bar=True, on_step=each_step, on_epoch=True, batch_size=items)

    def log_validation(self, items: int, values: Mapping[str, torch.Tensor | float]) -> None:
        """Log values of a validation batch as `validation_NAME`; the mean is over items."""
        named = {f"validation_{name}": value for name, value in values.items()}
        self.log_dict(named, prog_bar=True, batch_size=items)

    def configure_optimizers(self) -> Any:
        """Return AdamW and its schedule."""
        return make_optimizer(self, self.recipe.optimisation, self._steps)


def process_rank() -> tuple[int, int]:
    """Return the number of this training process and the number of all processes."""
    if not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()
