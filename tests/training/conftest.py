"""A small folder of pictures, a network trained on it and its exported model, made once a session."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from rich.console import Console

from service.repository.manifest import ImageInput, ModelManifest
from training.core.job import Job
from training.core.trainer import load_learner
from training.core.version_folder import Destination
from training.images.fit import ImageData
from training.images.learner import ImageLearner
from training.images.predict import HeldOut
from training.images.steps import ImageSteps
from training.recipes.image_recipe import FolderData, ImageRecipe, NetworkSize
from training.recipes.recipe import Optimisation, Split

COUNTS = {"cross": 36, "disc": 24, "stripe": 14}


def draw_picture(name: str, random: np.random.Generator) -> Image.Image:
    """Draw one picture of a class, in random colours."""
    side = int(random.integers(20, 40))
    ground, ink = (
        tuple(int(c) for c in random.integers(low, high, 3)) for low, high in ((150, 256), (0, 90))
    )
    picture = Image.new("RGB", (side, side), ground)
    pen = ImageDraw.Draw(picture)
    a, b = side * 0.2, side * 0.8
    if name == "cross":
        pen.line([(a, a), (b, b)], fill=ink, width=3)
        pen.line([(a, b), (b, a)], fill=ink, width=3)
    elif name == "disc":
        pen.ellipse([a, a, b, b], fill=ink)
    else:
        pen.rectangle([0, side * 0.4, side, side * 0.6], fill=ink)
    return picture


def fill_folder(folder: Path) -> None:
    """Write every class's pictures, as PNG and JPEG."""
    random = np.random.default_rng(0)
    for name, count in COUNTS.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            suffix = "png" if number % 2 else "jpg"
            draw_picture(name, random).save(folder / name / f"{number:03d}.{suffix}")


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    fill_folder(folder)
    return folder


def tiny_recipe(folder: Path, **optimisation: float) -> ImageRecipe:
    """A recipe that trains in a second or two."""
    wanted = {"epochs": 12, "passes": 3, "batch_size": 16, "learning_rate": 0.01, **optimisation}
    return ImageRecipe(
        manifest=ModelManifest(name="shapes", task="image-classification", required=False),
        data=FolderData(path=folder, mirror=True),
        input=ImageInput(width=16, height=16, channels=3),
        split=Split(test=0.2, validation=0.2, seed=3),
        network=NetworkSize(widths=(8, 16), blocks=1, dropout=0.0),
        optimisation=Optimisation.model_validate(wanted),
    )


def silent_console() -> Console:
    return Console(file=io.StringIO(), width=120)


@dataclass(frozen=True)
class Trained:
    """A trained network and all it came from."""

    steps: ImageSteps
    data: ImageData
    learner: ImageLearner

    @property
    def job(self) -> Job[ImageRecipe]:
        return self.steps.job

    @property
    def pictures(self) -> HeldOut:
        return self.data.held_out


@pytest.fixture(scope="session")
def trained(picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    runs = tmp_path_factory.mktemp("runs")
    job = Job(tiny_recipe(picture_folder), runs, silent_console(), "kotae-train build shapes.yaml")
    steps = ImageSteps(job)
    data = steps.open()
    return Trained(steps, data, load_learner(steps.train(data), ImageLearner))


@pytest.fixture(scope="session")
def exported(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of version 1; not to be changed."""
    destination = Destination(tmp_path_factory.mktemp("models"))
    return trained.steps.publish(trained.learner, trained.data, destination)[0]
