"""Calibrate a trained text classifier: its temperature, and the threshold for `unknown`.

Both are found on the validation part.

Letters in shapes: `M` texts, `K` classes.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from training.recipes.text_recipe import TextClassificationRecipe
from training.text.classification.fit import LabelledData, validation_batches
from training.text.classification.learner import TextClassifierLearner
from training.text.classification.windows import FixedBatches

_TEMPERATURES = np.geomspace(0.3, 4.0, 400)


def calibrate(
    learner: TextClassifierLearner, data: LabelledData, recipe: TextClassificationRecipe
) -> float | None:
    """Set the network's temperature.

    Args:
        learner: The trained network.
        data: The data, of which the validation part is used.
        recipe: The recipe, with the required precision of answers.

    Returns:
        The threshold below which an answer is `unknown`; None if the recipe has no windows.
    """
    whole, windows = (_scores(learner, batches) for batches in validation_batches(recipe, data))
    logits, labels = (torch.cat(parts) for parts in zip(whole, windows, strict=True))
    temperature = best_temperature(logits, labels)
    learner.graph.get_buffer("temperature").fill_(temperature)
    if recipe.windows is None:
        return None
    scores, true = windows
    probabilities = (scores / temperature).softmax(dim=1).numpy()
    return threshold_for(probabilities, true.numpy(), recipe.windows.right)


def best_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the temperature with the lowest loss on logits f32 [M, K] and labels i64 [M]."""
    losses = [float(functional.cross_entropy(logits / float(t), labels)) for t in _TEMPERATURES]
    return float(_TEMPERATURES[int(np.argmin(losses))])


def threshold_for(probabilities: NDArray[np.float32], labels: NDArray[np.int64], right: float) -> float:
    """Return the lowest threshold with the required precision.

    Args:
        probabilities: f32 [M, K].
        labels: i64 [M].
        right: Share of the answers at or above the threshold that must be right.

    Returns:
        The threshold, between a little more than 1/K and 0.999.
    """
    best = probabilities.max(axis=1)
    hits = probabilities.argmax(axis=1) == labels
    surest_first = np.argsort(-best)
    share = np.cumsum(hits[surest_first]) / np.arange(1, len(best) + 1)
    enough = np.flatnonzero(share >= right)
    last = surest_first[enough[-1]] if len(enough) else surest_first[0]
    lowest = 1 / probabilities.shape[1] + 1e-3
    return round(float(np.clip(best[last], lowest, 0.999)), 3)


def _scores(learner: TextClassifierLearner, batches: FixedBatches) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits f32 [M, K] and labels i64 [M] of the texts with a label."""
    rows, labels = [], []
    with torch.inference_mode():
        for number in range(len(batches)):
            ids, mask, true = batches[number]
            rows.append(learner.graph.logits(ids, mask)[true >= 0])
            labels.append(true[true >= 0])
    return torch.cat(rows), torch.cat(labels)
