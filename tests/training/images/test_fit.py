import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.conftest import Trained, silent_console, tiny_recipe
from training.core.job import Job
from training.core.samplers import ShuffledItems
from training.core.trainer import load_learner
from training.core.warm_start import read_pretrained
from training.errors import DataRejected
from training.images.learner import ImageLearner
from training.images.steps import ImageSteps
from training.recipes.image_recipe import ImageRecipe


class PowerCut(Exception):
    """Stops a training run in the middle."""


def job_in(folder: Path, pictures: Path, **optimisation: float) -> Job[ImageRecipe]:
    return Job(tiny_recipe(pictures, **optimisation), folder, silent_console(), "kotae-train fit shapes.yaml")


def run_fit(job: Job[ImageRecipe], *, resume: bool = False) -> Path:
    steps = ImageSteps(job)
    return steps.train(steps.open(), resume=resume)


def load_checkpoint(path: Path) -> ImageLearner:
    return load_learner(path, ImageLearner)


def test_a_run_leaves_checkpoints_and_metrics_as_csv_and_tensorboard(trained: Trained) -> None:
    run = trained.job.run
    assert run.best.is_file()
    assert run.last.is_file()
    assert list((run.folder / "tensorboard").glob("events.*"))
    (metrics,) = (run.folder / "csv").glob("*/metrics.csv")
    with metrics.open(encoding="utf-8", newline="") as file:
        columns = set(next(csv.reader(file)))
    assert {"train_loss", "validation_loss", "validation_accuracy"} <= columns


def test_a_checkpoint_holds_its_recipe_and_labels(trained: Trained) -> None:
    learner = load_checkpoint(trained.job.run.best)
    assert learner.recipe == trained.job.recipe
    assert learner.labels == trained.data.source.classes


def test_a_picture_classifier_starts_from_a_version_of_ours(
    exported: Path, picture_folder: Path, tmp_path: Path
) -> None:
    job = job_in(tmp_path, picture_folder, epochs=1, passes=1, learning_rate=1e-12)
    job = replace(job, recipe=job.recipe.changed(start=exported.parent))
    weights = load_checkpoint(run_fit(job)).graph.state_dict()
    for name, weight in read_pretrained(exported).weights.items():
        if weight.ndim > 1 and name in weights:
            torch.testing.assert_close(weights[name], weight)


def test_resuming_goes_on_exactly_where_a_run_was_cut(
    tmp_path: Path, picture_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = (job_in(tmp_path / name, picture_folder, epochs=4, passes=1) for name in ("whole", "cut"))
    run_fit(whole)

    def cut_before_third_epoch(learner: ImageLearner) -> None:
        if learner.current_epoch == 2:
            raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(ImageLearner, "on_train_epoch_start", cut_before_third_epoch)
        with pytest.raises(PowerCut):
            run_fit(cut)
    run_fit(cut, resume=True)
    expected, resumed = (load_checkpoint(job.run.last).state_dict() for job in (whole, cut))
    for name, tensor in expected.items():
        assert torch.equal(tensor, resumed[name]), name


def test_the_seed_decides_the_weights(tmp_path: Path, picture_folder: Path) -> None:
    states = []
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        job = job_in(tmp_path / name, picture_folder, epochs=1, passes=1)
        seeded = Job(job.recipe.changed(data=None, name=None, seed=seed), job.runs, job.console, job.command)
        states.append(load_checkpoint(run_fit(seeded)).state_dict())
    weight = "graph.network.head.3.weight"
    assert torch.equal(states[0][weight], states[1][weight])
    assert not torch.equal(states[0][weight], states[2][weight])


def test_training_stops_early_when_nothing_gets_better(tmp_path: Path, picture_folder: Path) -> None:
    job = job_in(tmp_path, picture_folder, epochs=30, passes=1, learning_rate=1e-12, patience=1)
    run_fit(job)
    assert torch.load(job.run.last, weights_only=True)["epoch"] < 20


def test_resuming_what_was_never_started_is_refused(tmp_path: Path, picture_folder: Path) -> None:
    job = job_in(tmp_path, picture_folder)
    with pytest.raises(DataRejected, match="nothing to resume"):
        run_fit(job, resume=True)


def test_a_missing_checkpoint_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DataRejected, match="kotae-train fit"):
        load_checkpoint(tmp_path / "best.ckpt")


def test_every_epoch_shows_every_picture_in_a_new_order() -> None:
    order = ShuffledItems(10, 3, seed=0)
    first = list(order)
    assert sorted(first) == sorted(list(range(10)) * 3)
    order.set_epoch(1)
    assert list(order) != first
    order.set_epoch(0)
    assert list(order) == first
