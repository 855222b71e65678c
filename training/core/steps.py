"""The steps of `kotae-train`: fit, evaluate, export and quantize, written once for every kind of model.

A modality supplies only what differs: its data, its network, how answers are measured, and its files.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from service.repository.manifest import VERSION_FILE, Baseline, Provenance, VersionFacts, read, write
from service.tasks.classification import read_labels
from service.tasks.task import Raw
from training.core.card import CardText, write_card
from training.core.fit import TrainingSetup, fit
from training.core.job import Job, newest_version, write_json
from training.core.learner import Learner
from training.core.quantize import QuantizationData
from training.core.trainer import load_learner
from training.core.version_folder import Destination, hashes, publish, with_metrics
from training.errors import DataRejected
from training.recipes.recipe import Recipe


class DescribedData(Protocol):
    """What the steps must know of any data."""

    @property
    def description(self) -> str:
        """What the data are, for provenance and card."""

    @property
    def split(self) -> str:
        """How the test part was chosen, for the metrics."""


class DataclassInstance(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


RecipeKind = TypeVar("RecipeKind", bound=Recipe)
Data = TypeVar("Data", bound=DescribedData)
LearnerKind = TypeVar("LearnerKind", bound=Learner[Any, Any])
Evaluation = TypeVar("Evaluation", bound=DataclassInstance)


class Steps(ABC, Generic[RecipeKind, Data, LearnerKind, Evaluation]):
    """The commands of a recipe.

    Attributes:
        job: The recipe, and where to write.
        learner_class: The class of the checkpoints.
        card_text: Text of a new model card.
    """

    learner_class: type[LearnerKind]
    card_text: CardText

    def __init__(self, job: Job[RecipeKind]) -> None:
        self.job = job

    # What a modality supplies.

    @abstractmethod
    def open(self) -> Data:
        """Read the recipe's data and divide them into parts."""

    @abstractmethod
    def set_up(self, data: Data) -> TrainingSetup:
        """Create the network and the batches for a training."""

    @abstractmethod
    def write_files(
        self, folder: Path, learner: LearnerKind, data: Data, provenance: Provenance
    ) -> VersionFacts:
        """Write every file of a version but `version.yaml`; return its content without metrics.

        Raises:
            ExportFailed: The graph does not answer as PyTorch does.
        """

    @abstractmethod
    def measure(self, folder: Path, facts: VersionFacts, data: Data) -> Evaluation:
        """Evaluate a version on the test part."""

    @abstractmethod
    def metrics(self, evaluation: Evaluation) -> dict[str, float]:
        """Return the metrics for `version.yaml`."""

    @abstractmethod
    def counts(self, evaluation: Evaluation) -> dict[str, float]:
        """Return how many items were measured, for `version.yaml`."""

    @abstractmethod
    def baseline(self, evaluation: Evaluation) -> Baseline:
        """Return the distribution of the answers, against which drift is measured."""

    @abstractmethod
    def tables(self, evaluation: Evaluation) -> str:
        """Return the metrics as Markdown for the model card."""

    @abstractmethod
    def calibration_items(self, data: Data) -> Sequence[Raw]:
        """Return raw items of the validation part on which int8 scales are found."""

    @abstractmethod
    def guarded_metrics(self, data: Data) -> Mapping[str, bool]:
        """Return the metrics that a smaller variant must keep, and whether higher is better."""

    def describe(self, data: Data) -> str:
        """Return what is printed about the data before training."""
        return data.description

    def labels(self, data: Data) -> tuple[str, ...] | None:
        """Return the labels that a model must have to be measured on the data; None allows any."""
        return None

    def report(self, evaluation: Evaluation) -> str:
        """Return the metrics as Markdown for the terminal."""
        return self.tables(evaluation)

    def save(self, evaluation: Evaluation, data: Data, measured: str) -> None:
        """Write the evaluation into the run folder.

        Args:
            evaluation: The evaluation.
            data: The data.
            measured: What was measured.
        """
        write_json(self.job.run.folder / "evaluation.json", dataclasses.asdict(evaluation))

    def extend_model(self, model: Path, evaluation: Evaluation) -> CardText:
        """Write further files beside the model card; return the text of a new card."""
        return self.card_text

    def measure_checkpoint(self, checkpoint: Path, data: Data) -> Evaluation:
        """Evaluate a checkpoint with PyTorch.

        Raises:
            DataRejected: Models of this task are only measured as they are served; or see `load`.
        """
        raise DataRejected(
            f"a model for {self.job.recipe.manifest.task} is measured as it is served: "
            "export the checkpoint first"
        )

    def cross_validate(self, blocks: int) -> None:
        """Train and evaluate once per contiguous block of the data.

        Raises:
            DataRejected: There is no cross-validation for this task.
        """
        raise DataRejected(f"a model for {self.job.recipe.manifest.task} is not trained in blocks")

    # What is the same for all.

    def fit(self, *, resume: bool) -> None:
        """Train; the best checkpoint stays in the run folder."""
        self.train(self.open(), resume=resume)

    def build(self, destination: Destination) -> None:
        """Train, export and evaluate."""
        destination.resolve(self.job.recipe.name)  # fail before the training, not after it
        data = self.open()
        self._export(self.train(data), data, destination)

    def export(self, checkpoint: Path | None, destination: Destination) -> None:
        """Export a checkpoint, or else the run's best one, and evaluate the version."""
        self._export(checkpoint or self.job.run.best, self.open(), destination)

    def evaluate(self, checkpoint: Path | None, model: Path | None, blocks: int) -> None:
        """Evaluate on the test part.

        Args:
            checkpoint: Checkpoint to evaluate; None evaluates a version.
            model: Model folder whose newest version is evaluated; None is the one of the recipe's name.
            blocks: If not 0, train anew for each of so many contiguous blocks instead.

        Raises:
            DataRejected: There is nothing to evaluate, or it has other labels than the data.
        """
        if blocks:
            self.cross_validate(blocks)
            return
        if checkpoint:
            data = self.open()
            evaluation = self.measure_checkpoint(checkpoint, data)
        else:
            folder = newest_version(model or Path("models") / self.job.recipe.name)
            if folder is None:
                raise DataRejected(f"there is no version of {self.job.recipe.name}: export one first")
            facts, data = read(folder / VERSION_FILE, VersionFacts), self.open()
            if self.labels(data) is not None:
                self._check_labels(folder, read_labels(folder, facts), data)
            evaluation = self.measure(folder, facts, data)
        self._report(evaluation, data, str(checkpoint or folder))

    def quantization_data(self) -> QuantizationData:
        """Return what a smaller variant is made and measured with."""
        data = self.open()
        return QuantizationData(
            self.calibration_items(data),
            lambda folder, facts: self.metrics(self.measure(folder, facts, data)),
            self.guarded_metrics(data),
        )

    def train(self, data: Data, *, resume: bool = False) -> Path:
        """Train; return the best checkpoint."""
        self.job.say(f"{self.job.recipe.name}: {self.describe(data)}")
        best = fit(self.job, lambda: self.set_up(data), resume=resume)
        self.job.say(f"best checkpoint: {best}")
        return best

    def publish(self, learner: LearnerKind, data: Data, destination: Destination) -> tuple[Path, Evaluation]:
        """Export a network as a version with its model card; return the version's folder."""
        provenance = self.job.provenance(data.description, learner.recipe.seed)

        def fill(folder: Path) -> tuple[VersionFacts, Evaluation]:
            draft = self.write_files(folder, learner, data, provenance)
            draft = draft.model_copy(update={"files": hashes(folder)})
            evaluation = self.measure(folder, draft, data)
            counts: dict[str, float | str] = {**self.counts(evaluation), "split": data.split}
            facts = with_metrics(draft, self.metrics(evaluation), counts, self.baseline(evaluation))
            write(folder / VERSION_FILE, facts)
            return facts, evaluation

        folder, evaluation = publish(self.job.recipe.manifest, destination, fill)
        text = self.extend_model(folder.parent, evaluation)
        write_card(folder, self.job.recipe, self.tables(evaluation), text)
        return folder, evaluation

    def _export(self, checkpoint: Path, data: Data, destination: Destination) -> None:
        folder, evaluation = self.publish(self.load(checkpoint, data), data, destination)
        self._report(evaluation, data, "exported graph")
        self.job.say(f"exported and checked: {folder}")

    def load(self, checkpoint: Path, data: Data) -> LearnerKind:
        """Load a checkpoint.

        Raises:
            DataRejected: There is no such file, or it has other labels than the data.
        """
        learner = load_learner(checkpoint, self.learner_class)
        self._check_labels(checkpoint, learner.labels, data)
        return learner

    def _check_labels(self, path: Path, labels: tuple[str, ...], data: Data) -> None:
        if self.labels(data) not in (None, labels):
            raise DataRejected(f"{path} has other labels than {data.description}")

    def _report(self, evaluation: Evaluation, data: Data, measured: str) -> None:
        self.save(evaluation, data, measured)
        self.job.say(self.report(evaluation))
