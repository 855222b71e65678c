"""The steps of a recipe for image classification."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from service.repository.manifest import Baseline, Provenance, VersionFacts
from service.tasks.task import Raw
from training.core.card import CardText
from training.core.fit import TrainingSetup
from training.core.job import write_json
from training.core.quantize import CALIBRATION_ITEMS
from training.core.steps import Steps
from training.core.trainer import load_learner
from training.core.version_folder import baseline_of
from training.data.split import contiguous_parts
from training.images.fit import ImageData, open_data, set_up_training
from training.images.learner import ImageLearner
from training.images.metrics import ImageEvaluation, evaluate
from training.images.plots import draw_confusion, draw_sheet
from training.images.predict import held_out, predict_with_checkpoint, predict_with_version
from training.images.source import open_source
from training.images.tables import card_tables, report_tables
from training.images.version import write_version
from training.recipes.image_recipe import ImageRecipe

_MEASURED = "Measured on held-out images, from raw file to answer with ONNX Runtime."
_LIMITS = """\
## Limits

Every image gets one of these classes, also an image that shows none of them."""
CALIBRATION_SEED = 3_000_017  # seed of the redrawn images on which int8 scales are found


class ImageSteps(Steps[ImageRecipe, ImageData, ImageLearner, ImageEvaluation]):
    """The commands of a recipe for image classification."""

    learner_class = ImageLearner
    card_text = CardText(_MEASURED, after=_LIMITS)

    def open(self) -> ImageData:
        """Load the images and divide them."""
        return open_data(self.job.recipe)

    def describe(self, data: ImageData) -> str:
        """Return what is printed about the data before training."""
        return f"{data.description}\n{data.parts.description}"

    def labels(self, data: ImageData) -> tuple[str, ...]:
        """Return the classes of the data."""
        return data.source.classes

    def set_up(self, data: ImageData) -> TrainingSetup:
        """Return network and batches."""
        return set_up_training(self.job.recipe, data)

    def write_files(
        self, folder: Path, learner: ImageLearner, data: ImageData, provenance: Provenance
    ) -> VersionFacts:
        """Write the files of a version."""
        return write_version(folder, learner, data, provenance)

    def measure(self, folder: Path, facts: VersionFacts, data: ImageData) -> ImageEvaluation:
        """Evaluate a version."""
        return evaluate(
            predict_with_version(folder, data.held_out, facts), data.held_out, data.source.classes
        )

    def measure_checkpoint(self, checkpoint: Path, data: ImageData) -> ImageEvaluation:
        """Evaluate a checkpoint with PyTorch."""
        predictions = predict_with_checkpoint(self.load(checkpoint, data), data.held_out)
        return evaluate(predictions, data.held_out, data.source.classes)

    def metrics(self, evaluation: ImageEvaluation) -> dict[str, float]:
        """Return the metrics for `version.yaml`."""
        plain, redrawn = evaluation.metrics.plain, evaluation.metrics.redrawn
        metrics = {
            "accuracy": plain.accuracy,
            "macro_f1": plain.macro_f1,
            "calibration_error": plain.calibration_error,
        }
        return metrics | ({"redrawn_accuracy": redrawn.accuracy} if redrawn else {})

    def counts(self, evaluation: ImageEvaluation) -> dict[str, float]:
        """Return how many images were measured."""
        plain, redrawn = evaluation.metrics.plain, evaluation.metrics.redrawn
        redrawn_items = {"redrawn_items": float(redrawn.items)} if redrawn else {}
        return {"held_out_items": float(plain.items), **redrawn_items}

    def baseline(self, evaluation: ImageEvaluation) -> Baseline:
        """Return the distribution of the answers, of redrawn images if there are any."""
        predictions, classes = evaluation.predictions, evaluation.metrics.plain.per_class
        rows = predictions.redrawn if evaluation.metrics.redrawn else predictions.plain
        mix = np.bincount(rows.argmax(axis=1), minlength=len(classes)) / len(rows)
        names = [one.label for one in classes]
        return baseline_of(rows.max(axis=1), dict(zip(names, mix.tolist(), strict=True)))

    def tables(self, evaluation: ImageEvaluation) -> str:
        """Return the metrics for the model card."""
        return card_tables(evaluation.metrics)

    def report(self, evaluation: ImageEvaluation) -> str:
        """Return the metrics for the terminal."""
        return report_tables(evaluation.metrics)

    def save(self, evaluation: ImageEvaluation, data: ImageData, measured: str) -> None:
        """Write metrics and plots into the run folder."""
        folder, metrics, classes = self.job.run.folder, evaluation.metrics, data.source.classes
        write_json(folder / "evaluation.json", {measured: dataclasses.asdict(metrics)})
        title = f"{metrics.plain.items} held-out pictures"
        draw_confusion(metrics.plain, classes, title, folder / "confusion.png")
        if metrics.redrawn:
            title = f"{metrics.redrawn.items} redrawn held-out pictures"
            draw_confusion(metrics.redrawn, classes, title, folder / "confusion-redrawn.png")
            draw_sheet(evaluation.predictions, data.held_out, folder / "redrawn.png")

    def calibration_items(self, data: ImageData) -> Sequence[Raw]:
        """Return validation files, each followed by a redrawn one if the source can redraw."""
        typical = held_out(data.source, data.parts.validation[:CALIBRATION_ITEMS], CALIBRATION_SEED)
        if not typical.redrawn:
            return typical.files
        redrawn = typical.redrawn[:: data.source.redrawings]  # one of each
        return [file for pair in zip(typical.files, redrawn, strict=True) for file in pair]

    def guarded_metrics(self, data: ImageData) -> Mapping[str, bool]:
        """Return the metrics that a smaller variant must keep."""
        return {"accuracy": True} | ({"redrawn_accuracy": True} if data.held_out.redrawn else {})

    def cross_validate(self, blocks: int) -> None:
        """Train and evaluate once per contiguous block of the data."""
        recipe = self.job.recipe
        source = open_source(recipe)
        plain, redrawn = [], []
        for number, parts in enumerate(contiguous_parts(source.labels, recipe.split, blocks), start=1):
            runs = self.job.run.folder / "blocks" / str(number)
            steps = ImageSteps(dataclasses.replace(self.job, runs=runs))
            data = ImageData(source, parts, f"block {number} of {blocks}")
            learner = load_learner(steps.train(data), ImageLearner)
            evaluation = evaluate(
                predict_with_checkpoint(learner, data.held_out), data.held_out, source.classes
            )
            self.job.say(f"{data.split}\n\n{self.report(evaluation)}")
            plain.append(evaluation.metrics.plain.accuracy)
            if evaluation.metrics.redrawn:
                redrawn.append(evaluation.metrics.redrawn.accuracy)
        summary: dict[str, Any] = {"accuracy": plain, "mean_accuracy": float(np.mean(plain))}
        if redrawn:
            summary |= {"redrawn_accuracy": redrawn, "mean_redrawn_accuracy": float(np.mean(redrawn))}
        write_json(self.job.run.folder / "blocks.json", summary)
        self.job.say(
            f"mean accuracy over {blocks} contiguous blocks: {summary['mean_accuracy']:.2%}"
            + (f", redrawn {summary['mean_redrawn_accuracy']:.2%}" if redrawn else "")
        )
