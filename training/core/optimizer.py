"""The optimizer and the learning rate schedule of every training: AdamW, linear warm-up, cosine decay."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from training.recipes.recipe import Optimisation


def make_optimizer(module: nn.Module, settings: Optimisation, steps: int) -> dict[str, Any]:
    """Return AdamW (arXiv:1711.05101) with its schedule; biases and norms have no weight decay.

    Args:
        module: The module whose parameters are trained.
        settings: The optimisation part of the recipe.
        steps: Optimizer steps of the whole training.

    Returns:
        The value that Lightning's `configure_optimizers` must return.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, steps, settings.warm_up)
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def learning_rate_factor(step: int, steps: int, warm_up: float) -> float:
    """Return the factor of the learning rate: linear warm-up, then cosine (arXiv:1608.03983, equation 5).

    Args:
        step: Finished optimizer steps, 0 to `steps`.
        steps: Optimizer steps of the whole training.
        warm_up: Share of the steps in which the rate rises.

    Returns:
        A factor of the highest learning rate, 0 to 1.
    """
    rising = warm_up * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    done = min(1.0, (step - rising) / max(1.0, steps - rising))
    return 0.5 * (1 + math.cos(math.pi * done))
