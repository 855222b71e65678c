"""After the training of a text classifier: its temperature, and the threshold for `unknown`.

Both are found on the validation part, so that the held-out part stays unseen.

Letters in shapes: `M` texts, `K` classes.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from training.recipes.text_recipes import TextLabelsRecipe
from training.text.classification.fit import LabelData, validation_batches
from training.text.classification.learner import LabelLearner
from training.text.classification.windows import FixedBatches

_TEMPERATURES = np.geomspace(0.3, 4.0, 400)


def calibrate(learner: LabelLearner, data: LabelData, recipe: TextLabelsRecipe) -> float | None:
    """Set the network's temperature.

    Args:
        learner: The trained network.
        data: Whose validation part is used.
        recipe: Says how sure an answer must be.

    Returns:
        The threshold below which an answer is `unknown`; None where the recipe has no windows.
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
    """Find the temperature with the lowest loss on f32 [M, K] and i64 [M]."""
    losses = [float(functional.cross_entropy(logits / float(t), labels)) for t in _TEMPERATURES]
    return float(_TEMPERATURES[int(np.argmin(losses))])


def threshold_for(probabilities: NDArray[np.float32], labels: NDArray[np.int64], right: float) -> float:
    """Find the lowest threshold above which enough answers are right.

    Args:
        probabilities: f32 [M, K].
        labels: i64 [M].
        right: Share of the answers at or above the threshold that must be right.

    Returns:
        The threshold, at least just above 1/K and below 1.
    """
    best = probabilities.max(axis=1)
    hits = probabilities.argmax(axis=1) == labels
    surest_first = np.argsort(-best)
    share = np.cumsum(hits[surest_first]) / np.arange(1, len(best) + 1)
    enough = np.flatnonzero(share >= right)
    last = surest_first[enough[-1]] if len(enough) else surest_first[0]
    lowest = 1 / probabilities.shape[1] + 1e-3
    return round(float(np.clip(best[last], lowest, 0.999)), 3)


def _scores(learner: LabelLearner, batches: FixedBatches) -> tuple[torch.Tensor, torch.Tensor]:
    """Score texts whose label is known; returns logits f32 [M, K] and labels i64 [M]."""
    rows, labels = [], []
    with torch.inference_mode():
        for number in range(len(batches)):
            ids, mask, true = batches[number]
            rows.append(learner.graph.logits(ids, mask)[true >= 0])
            labels.append(true[true >= 0])
    return torch.cat(rows), torch.cat(labels)
