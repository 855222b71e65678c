"""The trainer that every fit uses: run folder, seeds, checkpoints and logs, around Lightning's own.

A run folder holds `checkpoints/best.ckpt` and `last.ckpt`, `csv/` and `tensorboard/`. What is learnt, and
from what, is the caller's.
"""

from __future__ import annotations

import shutil
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import (
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
)
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from rich.console import Console
from torch.utils.data import DataLoader

from service.engine.runtime.cpus import available_cpus
from training.errors import DataRejected
from training.recipes.recipe import Recipe

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
    processes: int = 1,
) -> Path:
    """Run Lightning's trainer.

    Args:
        learner: What to train.
        loaders: What to learn from, and what to stop by.
        recipe: How.
        run: Where to write.
        console: Where to say how it goes.
        resume: Go on from the last complete epoch.
        processes: How many learn together, each from its share of a batch. Every one validates alike.

    Returns:
        The best checkpoint.
    """
    trainer = _trainer(recipe, run, console, processes)
    with warnings.catch_warnings():
        # What is learnt from is in memory: more worker processes would only copy it.
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        # Lightning 2.6 uses a name that torch 2.13 deprecates.
        warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\)")
        # A folder of a few dozen pictures makes fewer steps than Lightning's logging interval.
        warnings.filterwarnings("ignore", message="The number of training batches")
        # Every process validates on the same files, so that there is nothing to add up.
        warnings.filterwarnings("ignore", message=".*sync_dist=True")
        # Resuming means just that.
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        last = str(run.last) if resume else None
        trainer.fit(learner, *loaders, ckpt_path=last, weights_only=True)
    return run.best


def load_learner(path: Path, kind: type[AnyLearner]) -> AnyLearner:
    """Load a checkpoint of a kind of learner.

    Raises:
        DataRejected: There is no such file.
    """
    if not path.is_file():
        raise DataRejected(f"there is no checkpoint {path}: run `kotae-train fit` first")
    learner = kind.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    return learner.eval()


class EpochLines(Callback):
    """One line an epoch, for logs; on a terminal the progress bar says the same."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's figures."""
        if not trainer.is_global_zero:
            return
        figures = "  ".join(
            f"{name} {float(value):.4f}"
            for name, value in trainer.callback_metrics.items()
            if not name.startswith("lr-") and not name.endswith(("_step", "_epoch"))  # said twice
        )
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self._console.print(f"{epoch}  {figures}", highlight=False, soft_wrap=True)


def _trainer(recipe: Recipe, run: Run, console: Console, processes: int) -> Trainer:
    wanted = recipe.optimisation
    on_terminal = sys.stdout.isatty()
    return Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp_fork" if processes > 1 else "auto",
        use_distributed_sampler=False,
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
