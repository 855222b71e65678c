"""The commands of a recipe that finds things in pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from service.repository.manifest import VersionFacts
from service.tasks.classification import read_labels
from training.core.card import write_card
from training.core.job import write_json
from training.core.quantize import CALIBRATION_ITEMS, Subject
from training.core.steps import CommonSteps
from training.core.trainer import load_learner
from training.core.version_folder import Place, publish
from training.detection.card import DETECTOR_CARD, MISSES_FILE
from training.detection.coco import CocoFolder
from training.detection.dataset import AnnotatedFile, DetectionSource
from training.detection.fit import fit_detector
from training.detection.learner import DetectorLearner
from training.detection.metrics import measure as measure_detections
from training.detection.misses import draw_misses, find_misses
from training.detection.predict import Found, answers_of_checkpoint, answers_of_version
from training.detection.scenes.source import DigitScenes
from training.detection.tables import figure_tables
from training.detection.version import Measured, Origin, detector_figures, fill_version
from training.errors import DataRejected
from training.recipes.detection_recipe import CocoData, DetectionRecipe


class DetectorSteps(CommonSteps[DetectionRecipe, DetectionSource]):
    """What the command line can ask of a recipe for finding things."""

    def open(self) -> DetectionSource:
        """Read what is framed in the pictures and divide them."""
        recipe = self.job.recipe
        if isinstance(recipe.data, CocoData):
            return CocoFolder(recipe)
        return DigitScenes(recipe, self.job.runs)

    def describe(self, data: DetectionSource) -> str:
        """Say what there is to learn from."""
        return data.description

    def train(self, data: DetectionSource, *, resume: bool) -> Path:
        """Train; returns the best checkpoint."""
        return fit_detector(self.job, data, resume=resume)

    def evaluate(self, checkpoint: Path | None, model: Path | None, blocks: int) -> None:
        """Measure a checkpoint if one is given, else the newest version of a model folder.

        Raises:
            DataRejected: There is nothing to measure, or it has other labels than the data.
        """
        if blocks or not checkpoint:
            super().evaluate(checkpoint, model, blocks)
            return
        learner = load_learner(checkpoint, DetectorLearner)
        data = self.open()
        self._check_labels(str(checkpoint), learner.classes, data)
        files = data.held_out_files()
        self.say(self._figures_of(files, answers_of_checkpoint(learner, files), data.classes))

    def measure(self, folder: Path, facts: VersionFacts, data: DetectionSource) -> str:
        """Measure a version; returns its figures as Markdown, and writes them into the run folder."""
        self._check_labels(str(folder), read_labels(folder, facts), data)
        files = data.held_out_files()
        return self._figures_of(files, answers_of_version(folder, files, facts), data.classes)

    def subject(self) -> Subject:
        """Say what a smaller variant is made with and judged by."""
        source = self.open()
        files = source.held_out_files()

        def measure(folder: Path, facts: VersionFacts) -> dict[str, float]:
            found = answers_of_version(folder, files, facts)
            return detector_figures(measure_detections(list(zip(files, found, strict=True)), source.classes))

        items = [file.file for file in source.validation_files()[:CALIBRATION_ITEMS]]
        return Subject(items, measure, {"ap": True, "ap50": True})

    def publish(self, checkpoint: Path, data: DetectionSource, place: Place) -> tuple[Path, str]:
        """Export a checkpoint, write the card and the misses; returns the version's folder and figures."""
        learner = load_learner(checkpoint, DetectorLearner)
        self._check_labels(str(checkpoint), learner.classes, data)
        origin = Origin(
            self.job.provenance(data.description, learner.recipe.seed),
            data.validation_files(),
            data.held_out_files(),
            data.split,
        )

        def fill(folder: Path) -> tuple[VersionFacts, Measured]:
            return fill_version(folder, learner, origin)

        folder, measured = publish(self.job.recipe.manifest, place, fill)
        misses = find_misses(measured.files, measured.found, learner.classes)
        draw_misses(misses, folder.parent / MISSES_FILE)
        tables = figure_tables(measured.figures)
        write_card(folder, self.job.recipe, tables, DETECTOR_CARD)
        return folder, tables

    def _figures_of(
        self, files: Sequence[AnnotatedFile], found: Sequence[Found], classes: tuple[str, ...]
    ) -> str:
        """Make tables of figures, and write those and the worst misses into the run folder."""
        figures = measure_detections(list(zip(files, found, strict=True)), classes)
        folder = self.job.run.folder
        write_json(folder / "evaluation.json", dataclasses.asdict(figures))
        draw_misses(find_misses(files, found, classes), folder / MISSES_FILE)
        return figure_tables(figures)

    def _check_labels(self, name: str, labels: tuple[str, ...], source: DetectionSource) -> None:
        if labels != source.classes:
            raise DataRejected(f"{name} has other labels than {source.description}")
