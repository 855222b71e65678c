"""The commands of a recipe that finds things in pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from service.manifest import VERSION_FILE, VersionFacts, read
from service.tasks.classification import read_labels
from training.card import write_card
from training.detection.annotated import AnnotatedFile, DetectionSource
from training.detection.answers import Found, answers_of_checkpoint, answers_of_version
from training.detection.card import DETECTOR_CARD, MISSES_FILE
from training.detection.coco import CocoFolder
from training.detection.detector_learner import DetectorLearner
from training.detection.digit_scenes import DigitScenes
from training.detection.figures import DetectionFigures
from training.detection.figures import measure as measure_detections
from training.detection.fit import fit_detector
from training.detection.misses import draw_misses, find_misses
from training.detection.tables import figure_tables
from training.detection.version import Measured, Origin, detector_figures, fill_version
from training.errors import DataRejected
from training.job import Job, newest_version, write_json
from training.quantize import CALIBRATION_ITEMS, Subject
from training.recipes.detection_recipe import CocoData, DetectionRecipe
from training.trainer import load_learner
from training.version_folder import Place, publish


@dataclass(frozen=True, slots=True)
class DetectorSteps:
    """What the command line can ask of a recipe for finding things; see `training.steps`."""

    job: Job[DetectionRecipe]

    def fit(self, *, resume: bool) -> None:
        """Train."""
        self._fit(self._source(), resume=resume)

    def build(self, place: Place) -> None:
        """Train, export and evaluate."""
        place.resolve(self.job.recipe.name)  # a taken place is told before the training, not after it
        source = self._source()
        self._export(self._fit(source, resume=False), source, place)

    def export(self, checkpoint: Path | None, place: Place) -> None:
        """Export a checkpoint and evaluate the version."""
        self._export(checkpoint or self.job.run.best, self._source(), place)

    def evaluate(self, checkpoint: Path | None, model: Path | None, blocks: int) -> None:
        """Measure a checkpoint if one is given, else the newest version of a model folder.

        Raises:
            DataRejected: There is nothing to measure, or it has other labels than the data.
        """
        if blocks:
            raise DataRejected("pictures with boxes are not trained in blocks")
        source = self._source()
        files = source.held_out_files()
        if checkpoint:
            learner = load_learner(checkpoint, DetectorLearner)
            self._check_labels(str(checkpoint), learner.classes, source)
            self._tell(files, answers_of_checkpoint(learner, files), source.classes)
            return
        folder = newest_version(model or Path("models") / self.job.recipe.name)
        if folder is None:
            raise DataRejected(f"there is no version of {self.job.recipe.name}: export one first")
        facts = read(folder / VERSION_FILE, VersionFacts)
        self._check_labels(str(folder), read_labels(folder, facts), source)
        self._tell(files, answers_of_version(folder, files, facts), source.classes)

    def subject(self) -> Subject:
        """Say what a smaller variant is made with and judged by."""
        source = self._source()
        files = source.held_out_files()

        def measure(folder: Path, facts: VersionFacts) -> dict[str, float]:
            found = answers_of_version(folder, files, facts)
            return detector_figures(measure_detections(list(zip(files, found, strict=True)), source.classes))

        items = [file.file for file in source.validation_files()[:CALIBRATION_ITEMS]]
        return Subject(items, measure, {"ap": True, "ap50": True})

    def _source(self) -> DetectionSource:
        recipe = self.job.recipe
        if isinstance(recipe.data, CocoData):
            return CocoFolder(recipe)
        return DigitScenes(recipe, self.job.runs)

    def _fit(self, source: DetectionSource, *, resume: bool) -> Path:
        self._say(f"{self.job.recipe.name}: {source.description}")
        best = fit_detector(self.job, source, resume=resume)
        self._say(f"best checkpoint: {best}")
        return best

    def _export(self, checkpoint: Path, source: DetectionSource, place: Place) -> None:
        learner = load_learner(checkpoint, DetectorLearner)
        self._check_labels(str(checkpoint), learner.classes, source)
        origin = Origin(
            self.job.provenance(source.description, learner.recipe.seed),
            source.validation_files(),
            source.held_out_files(),
            source.split,
        )

        def fill(folder: Path) -> tuple[VersionFacts, Measured]:
            return fill_version(folder, learner, origin)

        folder, measured = publish(self.job.recipe.manifest, place, fill)
        misses = find_misses(measured.files, measured.found, learner.classes)
        draw_misses(misses, folder.parent / MISSES_FILE)
        tables = figure_tables(measured.figures)
        write_card(folder, self.job.recipe, tables, DETECTOR_CARD)
        self._say(tables)
        self._say(f"exported and checked: {folder}")

    def _tell(
        self, files: Sequence[AnnotatedFile], found: Sequence[Found], classes: tuple[str, ...]
    ) -> DetectionFigures:
        """Print figures, and write them and the worst misses into the run folder."""
        figures = measure_detections(list(zip(files, found, strict=True)), classes)
        folder = self.job.run.folder
        write_json(folder / "evaluation.json", dataclasses.asdict(figures))
        draw_misses(find_misses(files, found, classes), folder / MISSES_FILE)
        self._say(figure_tables(figures))
        return figures

    def _check_labels(self, name: str, labels: tuple[str, ...], source: DetectionSource) -> None:
        if labels != source.classes:
            raise DataRejected(f"{name} has other labels than {source.description}")

    def _say(self, text: str) -> None:
        self.job.console.print(text, highlight=False, markup=False, soft_wrap=True)
