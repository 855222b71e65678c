"""The training of the text classifier: data and recipe become batches and a network."""

from __future__ import annotations

from typing import Any

from torch.utils.data import ConcatDataset, DataLoader

from training.core.fit import TrainingSetup
from training.core.samplers import StepNumbers
from training.data.split import grouped_parts, stratified_parts
from training.recipes.text_recipe import TextClassificationRecipe
from training.text.classification.learner import TextClassifierLearner
from training.text.classification.windows import FixedBatches, WindowBatches, draw_windows
from training.text.dataset import LabelledTexts, TextData, read_labelled

VALIDATION_SEED = 1_000_003
_MOST_TOKENS = 2048  # of a text in training and validation; answers have the recipe's own limit

LabelledData = TextData[LabelledTexts]


def open_labelled(recipe: TextClassificationRecipe) -> LabelledData:
    """Read the recipe's texts and divide them."""
    table, grouped = read_labelled(recipe.data), recipe.data.group is not None
    parts = (
        grouped_parts(table.groups, recipe.split) if grouped else stratified_parts(table.labels, recipe.split)
    )
    kept = "by group" if grouped else "stratified"
    split = f"{kept}, {recipe.split.test:.0%} for testing, seed {recipe.split.seed}"
    return LabelledData(table, parts, split)


def set_up_training(recipe: TextClassificationRecipe, data: LabelledData) -> TrainingSetup:
    """Return network and batches for a training."""
    settings, texts = recipe.optimisation, len(data.parts.train)
    steps = max(1, texts * settings.passes_over(texts) // settings.batch_size)
    batches = WindowBatches(
        data.table,
        data.parts.train,
        recipe.windows,
        batch_size=settings.batch_size,
        most_tokens=min(recipe.input.max_tokens, _MOST_TOKENS),
        seed=recipe.seed,
    )
    whole, windows = validation_batches(recipe, data)
    validation: DataLoader[Any] = DataLoader(ConcatDataset([whole, windows]), batch_size=None)
    learner = TextClassifierLearner(
        recipe.model_dump(mode="json"), list(data.table.classes), settings.epochs * steps
    )
    training = DataLoader(batches, batch_size=None, sampler=StepNumbers(steps))
    return TrainingSetup(learner, training, validation)


def validation_batches(
    recipe: TextClassificationRecipe, data: LabelledData
) -> tuple[FixedBatches, FixedBatches]:
    """Return batches of the whole texts of the validation part, and of windows from them.

    If the recipe has no windows, both are of whole texts.
    """
    part = data.parts.validation
    most = min(recipe.input.max_tokens, _MOST_TOKENS)
    whole = FixedBatches([data.table.texts[i] for i in part], data.table.labels[part], most)
    if recipe.windows is None:
        return whole, whole
    windows, owners = draw_windows(data.table, part, recipe.windows.measured, VALIDATION_SEED)
    return whole, FixedBatches(windows, data.table.labels[owners], most)
