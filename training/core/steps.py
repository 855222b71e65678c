"""The commands of a recipe, but for what differs from one kind of model to another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from service.repository.manifest import VERSION_FILE, VersionFacts, read
from training.core.job import Job, RecipeKind, newest_version
from training.core.quantize import Subject
from training.core.version_folder import Place
from training.errors import DataRejected

Data = TypeVar("Data")


@dataclass(frozen=True, slots=True)
class CommonSteps(ABC, Generic[RecipeKind, Data]):
    """What the command line can ask of any recipe but one that classifies pictures; see `core.registry`.

    Attributes:
        job: The recipe, and where to write and talk.
    """

    job: Job[RecipeKind]

    @abstractmethod
    def open(self) -> Data:
        """Read the recipe's data and divide them."""

    @abstractmethod
    def describe(self, data: Data) -> str:
        """Say what there is to learn from."""

    @abstractmethod
    def train(self, data: Data, *, resume: bool) -> Path:
        """Train; returns the best checkpoint."""

    @abstractmethod
    def publish(self, checkpoint: Path, data: Data, place: Place) -> tuple[Path, str]:
        """Export a checkpoint and write the card; returns the version's folder and its figures."""

    @abstractmethod
    def measure(self, folder: Path, facts: VersionFacts, data: Data) -> str:
        """Measure a version; returns its figures as Markdown."""

    @abstractmethod
    def subject(self) -> Subject:
        """Say what a smaller variant is made with and judged by."""

    def fit(self, *, resume: bool) -> None:
        """Train."""
        self._fit(self.open(), resume=resume)

    def build(self, place: Place) -> None:
        """Train, export and evaluate."""
        place.resolve(self.job.recipe.name)  # a taken place is told before the training, not after it
        data = self.open()
        self._export(self._fit(data, resume=False), data, place)

    def export(self, checkpoint: Path | None, place: Place) -> None:
        """Export a checkpoint and evaluate the version."""
        self._export(checkpoint or self.job.run.best, self.open(), place)

    def evaluate(self, checkpoint: Path | None, model: Path | None, blocks: int) -> None:
        """Measure the newest version of a model folder, as it is served.

        Raises:
            DataRejected: There is none, or something else is to be measured.
        """
        task = self.job.recipe.manifest.task
        if blocks:
            raise DataRejected(f"a model for {task} is not trained in blocks")
        if checkpoint:
            raise DataRejected(f"a model for {task} is measured as it is served: export the checkpoint first")
        folder = newest_version(model or Path("models") / self.job.recipe.name)
        if folder is None:
            raise DataRejected(f"there is no version of {self.job.recipe.name}: export one first")
        self.say(self.measure(folder, read(folder / VERSION_FILE, VersionFacts), self.open()))

    def say(self, text: str) -> None:
        """Print a text as it is."""
        self.job.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _fit(self, data: Data, *, resume: bool) -> Path:
        self.say(f"{self.job.recipe.name}: {self.describe(data)}")
        best = self.train(data, resume=resume)
        self.say(f"best checkpoint: {best}")
        return best

    def _export(self, checkpoint: Path, data: Data, place: Place) -> None:
        folder, tables = self.publish(checkpoint, data, place)
        self.say(tables)
        self.say(f"exported and checked: {folder}")
