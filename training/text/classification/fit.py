"""Text classification, from a table to the best checkpoint: opening, fitting, calibrating."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from torch.utils.data import ConcatDataset, DataLoader

from training.core.trainer import Run, begin, train
from training.core.warm_start import open_start, take_weights
from training.data.split import Parts, grouped_parts, stratified_parts
from training.recipes.text_recipes import TextLabelsRecipe
from training.text.classification.learner import LabelLearner
from training.text.classification.windows import FixedBatches, StepNumbers, WindowBatches, draw_windows
from training.text.dataset import LabelledTexts, read_labelled

VALIDATION_SEED = 1_000_003
_LONGEST_LEARNT = 2048  # tokens of a text while learning and stopping; answers see the recipe's own limit


@dataclass(frozen=True, slots=True)
class LabelData:
    """The recipe's texts and what each is for."""

    table: LabelledTexts
    parts: Parts


def open_labelled(recipe: TextLabelsRecipe) -> LabelData:
    """Read the recipe's texts and divide them."""
    table = read_labelled(recipe.data)
    if recipe.data.group is None:
        return LabelData(table, stratified_parts(table.labels, recipe.split))
    return LabelData(table, grouped_parts(table.groups, recipe.split))


def fit_labels(
    recipe: TextLabelsRecipe, data: LabelData, run: Run, console: Console, *, resume: bool = False
) -> Path:
    """Train a text classifier; returns the best checkpoint.

    Raises:
        DataRejected: There is nothing to resume or to start from.
    """
    start = open_start(recipe.start) if recipe.start and not resume else None
    begin(run, recipe.seed, resume=resume)
    wanted = recipe.optimisation
    texts = len(data.parts.train)
    steps = max(1, texts * wanted.passes_over(texts) // wanted.batch_size)
    longest = min(recipe.input.max_tokens, _LONGEST_LEARNT)
    batches = WindowBatches(
        data.table,
        data.parts.train,
        recipe.windows,
        batch_size=wanted.batch_size,
        most_tokens=longest,
        seed=recipe.seed,
    )
    training = DataLoader(batches, batch_size=None, sampler=StepNumbers(steps))
    whole, windows = validation_batches(recipe, data)
    held_out: DataLoader[Any] = DataLoader(ConcatDataset([whole, windows]), batch_size=None)
    learner = LabelLearner(recipe.model_dump(mode="json"), list(data.table.classes), wanted.epochs * steps)
    if start:
        console.print(take_weights(learner.graph, start, learner.classes, "head.2"), soft_wrap=True)
    return train(learner, (training, held_out), recipe, run, console, resume=resume)


def validation_batches(recipe: TextLabelsRecipe, data: LabelData) -> tuple[FixedBatches, FixedBatches]:
    """Make batches of the validation part's whole texts, and of windows out of them.

    Where the recipe has no windows, both are of whole texts.
    """
    part = data.parts.validation
    longest = min(recipe.input.max_tokens, _LONGEST_LEARNT)
    whole = FixedBatches([data.table.texts[i] for i in part], data.table.labels[part], longest)
    if recipe.windows is None:
        return whole, whole
    windows, owners = draw_windows(data.table, part, recipe.windows.measured, VALIDATION_SEED)
    return whole, FixedBatches(windows, data.table.labels[owners], longest)
