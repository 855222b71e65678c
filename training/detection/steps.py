"""The steps of a recipe for object detection."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from service.repository.manifest import Baseline, Provenance, VersionFacts
from service.tasks.task import Raw
from training.core.card import CardText
from training.core.fit import TrainingSetup
from training.core.job import write_json
from training.core.quantize import CALIBRATION_ITEMS
from training.core.steps import Steps
from training.core.version_folder import baseline_of
from training.detection.coco import CocoFolder
from training.detection.dataset import AnnotatedImage, DetectionSource
from training.detection.fit import set_up_training
from training.detection.learner import DetectorLearner
from training.detection.metrics import THRESHOLD, DetectionMetrics, measure
from training.detection.misses import draw_misses, find_misses
from training.detection.predict import Predicted, predict_with_checkpoint, predict_with_version
from training.detection.scenes.source import DigitScenes
from training.detection.tables import metric_tables
from training.detection.version import write_version
from training.recipes.detection_recipe import CocoData, DetectionRecipe

MISSES_FILE = "misses.jpg"
_MEASURED = """\
Measured on held-out images, from raw file to answer with ONNX Runtime, by faster-coco-eval."""
_MISSES = f"""\
The worst misses. Green frames show the true objects, red frames the answers. The text under each image
gives the true label, the answered label and its score:

![Worst misses]({MISSES_FILE})"""


@dataclass(frozen=True, slots=True)
class DetectionEvaluation:
    """Metrics, and the images and detections that were measured."""

    metrics: DetectionMetrics
    files: Sequence[AnnotatedImage]
    predicted: Sequence[Predicted]
    classes: tuple[str, ...]


class DetectorSteps(Steps[DetectionRecipe, DetectionSource, DetectorLearner, DetectionEvaluation]):
    """The commands of a recipe for object detection."""

    learner_class = DetectorLearner
    card_text = CardText(_MEASURED, after=_MISSES)

    def open(self) -> DetectionSource:
        """Read the annotations and divide the images."""
        recipe = self.job.recipe
        if isinstance(recipe.data, CocoData):
            return CocoFolder(recipe)
        return DigitScenes(recipe, self.job.runs)

    def labels(self, data: DetectionSource) -> tuple[str, ...]:
        """Return the classes of the data."""
        return data.classes

    def set_up(self, data: DetectionSource) -> TrainingSetup:
        """Return network and batches."""
        return set_up_training(self.job.recipe, data)

    def write_files(
        self, folder: Path, learner: DetectorLearner, data: DetectionSource, provenance: Provenance
    ) -> VersionFacts:
        """Write the files of a version."""
        return write_version(folder, learner, data, provenance)

    def measure(self, folder: Path, facts: VersionFacts, data: DetectionSource) -> DetectionEvaluation:
        """Evaluate a version."""
        return _evaluate(data, lambda files: predict_with_version(folder, files, facts))

    def measure_checkpoint(self, checkpoint: Path, data: DetectionSource) -> DetectionEvaluation:
        """Evaluate a checkpoint with PyTorch."""
        learner = self.load(checkpoint, data)
        return _evaluate(data, lambda files: predict_with_checkpoint(learner, files))

    def metrics(self, evaluation: DetectionEvaluation) -> dict[str, float]:
        """Return the metrics for `version.yaml`."""
        names = ("ap", "ap50", "ap75", "precision", "recall")
        return {name: cast(float, getattr(evaluation.metrics, name)) for name in names}

    def counts(self, evaluation: DetectionEvaluation) -> dict[str, float]:
        """Return how many images and objects were measured."""
        metrics = evaluation.metrics
        return {"held_out_items": float(metrics.pictures), "held_out_things": float(metrics.things)}

    def baseline(self, evaluation: DetectionEvaluation) -> Baseline:
        """Return the distribution of the detections with at least the default score."""
        kept = [one.scores >= THRESHOLD for one in evaluation.predicted]
        pairs = list(zip(evaluation.predicted, kept, strict=True))
        labels = np.concatenate([one.labels[answered] for one, answered in pairs])
        scores = np.concatenate([one.scores[answered] for one, answered in pairs])
        mix = np.bincount(labels, minlength=len(evaluation.classes)) / max(1, len(labels))
        return baseline_of(scores, dict(zip(evaluation.classes, mix.tolist(), strict=True)))

    def tables(self, evaluation: DetectionEvaluation) -> str:
        """Return the metrics for terminal and model card."""
        return metric_tables(evaluation.metrics)

    def save(self, evaluation: DetectionEvaluation, data: DetectionSource, measured: str) -> None:
        """Write metrics and the worst errors into the run folder."""
        folder = self.job.run.folder
        write_json(folder / "evaluation.json", dataclasses.asdict(evaluation.metrics))
        self.extend_model(folder, evaluation)

    def extend_model(self, model: Path, evaluation: DetectionEvaluation) -> CardText:
        """Draw the worst errors beside the model card."""
        misses = find_misses(evaluation.files, evaluation.predicted, evaluation.classes)
        draw_misses(misses, model / MISSES_FILE)
        return self.card_text

    def calibration_items(self, data: DetectionSource) -> Sequence[Raw]:
        """Return validation images."""
        return [file.file for file in data.validation_files()[:CALIBRATION_ITEMS]]

    def guarded_metrics(self, data: DetectionSource) -> Mapping[str, bool]:
        """Return the metrics that a smaller variant must keep."""
        return {"ap": True, "ap50": True}


def _evaluate(
    data: DetectionSource, predict: Callable[[Sequence[AnnotatedImage]], list[Predicted]]
) -> DetectionEvaluation:
    files = data.held_out_files()
    predicted = predict(files)
    metrics = measure(list(zip(files, predicted, strict=True)), data.classes)
    return DetectionEvaluation(metrics, files, predicted, data.classes)
