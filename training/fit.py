"""Fit: data and a recipe -> the best checkpoint, with metrics beside it.

A run folder holds `checkpoints/best.ckpt` and `last.ckpt`, `csv/` and `tensorboard/`. The test part
is not touched here. Evaluating and exporting are other modules' work.
"""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import (
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
)
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from numpy.typing import NDArray
from rich.console import Console
from torch.utils.data import DataLoader, Sampler, TensorDataset

from service.engine.session import available_cpus
from training.data.source import Augmentation, PictureSource, decode_files
from training.data.split import Parts, class_weights
from training.errors import DataRejected
from training.networks.learner import Learner
from training.recipes.recipe import PictureRecipe, Recipe

_VALIDATION_SEED = 1_000_003  # redrawings of validation pictures; the test part's have another seed
AnyLearner = TypeVar("AnyLearner", bound=LightningModule)
_OUTPUTS = ("checkpoints", "csv", "tensorboard")


@dataclass(frozen=True, slots=True)
class Run:
    """Where a training run keeps its files."""

    folder: Path

    @property
    def best(self) -> Path:
        """The checkpoint with the lowest validation loss."""
        return self.folder / "checkpoints" / "best.ckpt"

    @property
    def last(self) -> Path:
        """The checkpoint of the last complete epoch, to resume from."""
        return self.folder / "checkpoints" / "last.ckpt"


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
        DataRejected: There is nothing to resume, or the data do not fit the recipe.
    """
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
    return train(learner, (training, validation), recipe, run, console, resume=resume)


def begin(run: Run, seed: int, *, resume: bool) -> None:
    """Seed every generator, and clear the run folder of an earlier fit unless that is resumed.

    Raises:
        DataRejected: There is nothing to resume.
    """
    if resume and not run.last.is_file():
        raise DataRejected(f"there is nothing to resume: {run.last} does not exist")
    if not resume:
        for name in _OUTPUTS:
            shutil.rmtree(run.folder / name, ignore_errors=True)
    torch.set_num_threads(min(torch.get_num_threads(), available_cpus()))  # OMP_NUM_THREADS can ask for less
    seed_everything(seed, workers=True, verbose=False)


def train(
    learner: LightningModule,
    loaders: tuple[DataLoader[Any], DataLoader[Any]],
    recipe: Recipe,
    run: Run,
    console: Console,
    *,
    resume: bool,
) -> Path:
    """Run Lightning's trainer.

    Args:
        learner: What to train.
        loaders: What to learn from, and what to stop by.
        recipe: How.
        run: Where to write.
        console: Where to say how it goes.
        resume: Go on from the last complete epoch.

    Returns:
        The best checkpoint.
    """
    trainer = _trainer(recipe, run, console)
    with warnings.catch_warnings():
        # What is learnt from is in memory: more worker processes would only copy it.
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        # Lightning 2.6 uses a name that torch 2.13 deprecates.
        warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\)")
        # A folder of a few dozen pictures makes fewer steps than Lightning's logging interval.
        warnings.filterwarnings("ignore", message="The number of training batches")
        # Resuming means just that.
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        last = str(run.last) if resume else None
        trainer.fit(learner, *loaders, ckpt_path=last, weights_only=True)
    return run.best


def load_checkpoint(path: Path) -> Learner:
    """Load a picture classifier for evaluation or export.

    Raises:
        DataRejected: There is no such file.
    """
    return load_learner(path, Learner)


def load_learner(path: Path, kind: type[AnyLearner]) -> AnyLearner:
    """Load a checkpoint of a kind of learner.

    Raises:
        DataRejected: There is no such file.
    """
    if not path.is_file():
        raise DataRejected(f"there is no checkpoint {path}: run `kotae-train fit` first")
    learner = kind.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    return learner.eval()


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


class EpochLines(Callback):
    """One line an epoch, for logs; on a terminal the progress bar says the same."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's figures."""
        figures = "  ".join(
            f"{name} {float(value):.4f}"
            for name, value in trainer.callback_metrics.items()
            if not name.startswith("lr-")
        )
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self._console.print(f"{epoch}  {figures}", highlight=False, soft_wrap=True)


def _trainer(recipe: Recipe, run: Run, console: Console) -> Trainer:
    wanted = recipe.optimisation
    on_terminal = sys.stdout.isatty()
    return Trainer(
        accelerator="cpu",
        max_epochs=wanted.epochs,
        gradient_clip_val=wanted.gradient_clip,
        logger=[
            CSVLogger(run.folder, name="csv"),
            TensorBoardLogger(run.folder, name="tensorboard", version=""),
        ],
        callbacks=[
            ModelCheckpoint(
                run.best.parent,
                filename=run.best.stem,
                monitor="validation_loss",
                enable_version_counter=False,
            ),
            # Its own callback: Lightning 2.6 writes `save_last` only when the epoch was the best one.
            ModelCheckpoint(run.last.parent, filename=run.last.stem, enable_version_counter=False),
            EarlyStopping("validation_loss", patience=wanted.patience),
            LearningRateMonitor("epoch"),
            RichProgressBar() if on_terminal else EpochLines(console),
        ],
        enable_progress_bar=on_terminal,
        enable_model_summary=False,
        log_every_n_steps=10,
        num_sanity_val_steps=0,
        deterministic=True,
    )


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
