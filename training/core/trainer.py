"""Lightning's trainer with the run folder, seeds, checkpoints and logs of this package.

A run folder contains `checkpoints/best.ckpt` and `last.ckpt`, `csv/` and `tensorboard/`.
"""

from __future__ import annotations

import shutil
import sys
import warnings
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
from training.core.job import Run
from training.errors import DataRejected
from training.recipes.recipe import Recipe

AnyLearner = TypeVar("AnyLearner", bound=LightningModule)
_OUTPUTS = ("checkpoints", "csv", "tensorboard")


def prepare_run(run: Run, seed: int, *, resume: bool) -> None:
    """Seed every random generator; delete the files of an earlier fit unless it is resumed.

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
        learner: The module to train.
        loaders: Batches for training and for validation.
        recipe: The recipe.
        run: The run folder.
        console: Where progress is printed.
        resume: Continue after the last complete epoch.
        processes: Number of processes; each trains on its share of a batch and validates on everything.

    Returns:
        The best checkpoint.
    """
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    trainer = _trainer(recipe, run, console, processes)
    with warnings.catch_warnings():
        # The training data are in memory: worker processes would only copy them.
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        # Lightning 2.6 uses a name that torch 2.13 deprecates.
        warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\)")
        # A small data set has fewer steps than Lightning's logging interval.
        warnings.filterwarnings("ignore", message="The number of training batches")
        # Every process validates on the same files, so there is nothing to reduce.
        warnings.filterwarnings("ignore", message=".*sync_dist=True")
        # This is the normal case when resuming.
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        last = str(run.last) if resume else None
        trainer.fit(learner, *loaders, ckpt_path=last, weights_only=True)
    return run.best


def load_learner(path: Path, kind: type[AnyLearner]) -> AnyLearner:
    """Load a checkpoint in evaluation mode.

    Raises:
        DataRejected: There is no such file.
    """
    if not path.is_file():
        raise DataRejected(f"there is no checkpoint {path}: run `kotae-train fit` first")
    learner = kind.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    return learner.eval()


class EpochLines(Callback):
    """Prints one line per epoch, for logs; a terminal shows a progress bar instead."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's metrics."""
        if not trainer.is_global_zero:
            return
        metrics = "  ".join(
            f"{name} {float(value):.4f}"
            for name, value in trainer.callback_metrics.items()
            if not name.startswith("lr-") and not name.endswith(("_step", "_epoch"))  # duplicates
        )
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self._console.print(f"{epoch}  {metrics}", highlight=False, soft_wrap=True)


def _trainer(recipe: Recipe, run: Run, console: Console, processes: int) -> Trainer:
    settings = recipe.optimisation
    on_terminal = sys.stdout.isatty()
    return Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp_fork" if processes > 1 else "auto",
        use_distributed_sampler=False,
        max_epochs=settings.epochs,
        gradient_clip_val=settings.gradient_clip,
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
            EarlyStopping("validation_loss", patience=settings.patience),
            LearningRateMonitor("epoch"),
            RichProgressBar() if on_terminal else EpochLines(console),
        ],
        enable_progress_bar=on_terminal,
        enable_model_summary=False,
        log_every_n_steps=10,
        num_sanity_val_steps=0,
        deterministic=True,
    )
