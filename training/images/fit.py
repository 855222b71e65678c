"""Fit: data and a recipe -> the best checkpoint, with metrics beside it.

A run folder holds `checkpoints/best.ckpt` and `last.ckpt`, `csv/` and `tensorboard/`. The test part
is not touched here. Evaluating and exporting are other modules' work.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch.utils.data import DataLoader, Sampler, TensorDataset

from training.core.trainer import Run, begin, load_learner, train
from training.core.warm_start import open_start, settle_norms, take_weights
from training.data.split import Parts, class_weights
from training.images.learner import Learner
from training.images.source import Augmentation, PictureSource, decode_files
from training.recipes.recipe import PictureRecipe

_VALIDATION_SEED = 1_000_003  # redrawings of validation pictures; the test part's have another seed


def fit(
    recipe: PictureRecipe,
    source: PictureSource,
    parts: Parts,
    run: Run,
    console: Console,
    *,
    resume: bool = False,
) -> Path:
    """Train a network.

    Args:
        recipe: What to do.
        source: The pictures.
        parts: Which of them to learn from and to stop by.
        run: Where to write. Without `resume`, what an earlier fit wrote there is replaced.
        console: Where to say how it goes.
        resume: Go on from the last complete epoch.

    Returns:
        The best checkpoint.

    Raises:
        DataRejected: There is nothing to resume or to start from, or the data do not fit the recipe.
    """
    start = open_start(recipe.start) if recipe.start and not resume else None
    begin(run, recipe.seed, resume=resume)
    augmentation = source.augmentation()
    training, validation = _loaders(recipe, source, parts, augmentation)
    weights = class_weights(learnt_labels(source, parts), len(source.classes))
    learner = Learner(
        recipe.model_dump(mode="json"),
        list(source.classes),
        weights.tolist(),
        recipe.optimisation.epochs * len(training),
    )
    learner.augmentation = augmentation
    if start:
        said = take_weights(learner.graph, start, learner.classes, "network.head")
        console.print(said, highlight=False, soft_wrap=True)
        generator = torch.Generator().manual_seed(recipe.seed)
        settle_norms(
            learner.graph, training, lambda batch: learner.graph.logits(augmentation(batch[0], generator))
        )
    return train(learner, (training, validation), recipe, run, console, resume=resume)


def load_checkpoint(path: Path) -> Learner:
    """Load a picture classifier for evaluation or export.

    Raises:
        DataRejected: There is no such file.
    """
    return load_learner(path, Learner)


class EpochOrder(Sampler[int]):
    """The order of pictures in an epoch: shuffled by seed and epoch alone, so that resuming repeats it.

    Args:
        pictures: How many there are.
        passes: How often an epoch shows each.
        seed: Of the order.
    """

    def __init__(self, pictures: int, passes: int, seed: int) -> None:
        self._pictures = pictures
        self._passes = passes
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this before each."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._pictures * self._passes

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self._seed, self._epoch))
        for _ in range(self._passes):
            yield from random.permutation(self._pictures).tolist()


def _loaders(
    recipe: PictureRecipe, source: PictureSource, parts: Parts, augmentation: Augmentation
) -> tuple[DataLoader[tuple[torch.Tensor, ...]], DataLoader[tuple[torch.Tensor, ...]]]:
    pixels = np.concatenate([source.pixels[parts.train], source.extra_pixels])
    labels = learnt_labels(source, parts)
    pictures = TensorDataset(augmentation.prepare(torch.from_numpy(pixels)), torch.from_numpy(labels))
    wanted = recipe.optimisation
    order = EpochOrder(len(pictures), wanted.passes_over(len(pictures)), recipe.seed)
    # A last batch of one picture has no batch statistics.
    uneven = len(order) % wanted.batch_size == 1
    training = DataLoader(pictures, wanted.batch_size, sampler=order, drop_last=uneven)
    held_out = DataLoader(_validation_set(recipe, source, parts), batch_size=256)
    return training, held_out


def learnt_labels(source: PictureSource, parts: Parts) -> NDArray[np.int64]:
    """Give the labels of all that is learnt from: the training part, then the extra pictures."""
    return np.concatenate([source.labels[parts.train], source.extra_labels])


def _validation_set(recipe: PictureRecipe, source: PictureSource, parts: Parts) -> TensorDataset:
    """Decode the validation part from files, plain and redrawn: u8 [M, H, W, C], i64 [M]."""
    labels = source.labels[parts.validation]
    files = source.files(parts.validation)
    redrawn = [redrawing.file for redrawing in source.redrawn(parts.validation, _VALIDATION_SEED)]
    images = decode_files(files + redrawn, recipe.input)
    both = np.concatenate([labels, np.repeat(labels, source.redrawings)])
    return TensorDataset(torch.from_numpy(images), torch.from_numpy(both))
