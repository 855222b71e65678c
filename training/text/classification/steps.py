"""The steps of a recipe for text classification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from service.repository.manifest import Baseline, Provenance, VersionFacts
from service.tasks.task import Raw
from training.core.fit import TrainingSetup
from training.core.quantize import CALIBRATION_ITEMS
from training.core.version_folder import baseline_of
from training.recipes.text_recipe import TextClassificationRecipe
from training.text.classification.calibration import calibrate
from training.text.classification.fit import LabelledData, open_labelled, set_up_training
from training.text.classification.golden import choose_golden_texts
from training.text.classification.learner import TextClassifierLearner
from training.text.classification.metrics import LabelEvaluation, evaluate_labels
from training.text.classification.tables import label_tables
from training.text.steps import TextSteps
from training.text.tokens import byte_tokenizer
from training.text.version import TextModel, write_version


class TextClassificationSteps(
    TextSteps[TextClassificationRecipe, LabelledData, TextClassifierLearner, LabelEvaluation]
):
    """The commands of a recipe for text classification."""

    learner_class = TextClassifierLearner

    def open(self) -> LabelledData:
        """Read the texts and divide them."""
        return open_labelled(self.job.recipe)

    def labels(self, data: LabelledData) -> tuple[str, ...]:
        """Return the classes of the data."""
        return data.table.classes

    def set_up(self, data: LabelledData) -> TrainingSetup:
        """Return network and batches."""
        return set_up_training(self.job.recipe, data)

    def write_files(
        self, folder: Path, learner: TextClassifierLearner, data: LabelledData, provenance: Provenance
    ) -> VersionFacts:
        """Write the files of a version."""
        recipe = self.job.recipe
        threshold = calibrate(learner, data, recipe)
        network = learner.graph.eval()
        model = TextModel(recipe.manifest, recipe.input, network, byte_tokenizer(), learner.labels, threshold)
        return write_version(folder, model, choose_golden_texts(model, data), provenance)

    def measure(self, folder: Path, facts: VersionFacts, data: LabelledData) -> LabelEvaluation:
        """Evaluate a version."""
        return evaluate_labels(folder, facts, data, self.job.recipe)

    def metrics(self, evaluation: LabelEvaluation) -> dict[str, float]:
        """Return the metrics for `version.yaml`."""
        whole = evaluation.whole
        metrics = {"accuracy": whole.accuracy, "coverage": whole.coverage, "macro_f1": evaluation.macro_f1}
        for length, windows in evaluation.windows.items():
            metrics[f"window{length}_accuracy"] = windows.answered_accuracy
            metrics[f"window{length}_coverage"] = windows.coverage
        return metrics

    def counts(self, evaluation: LabelEvaluation) -> dict[str, float]:
        """Return how many texts were measured."""
        return {"held_out_items": float(evaluation.whole.items)}

    def baseline(self, evaluation: LabelEvaluation) -> Baseline:
        """Return the distribution of the answers."""
        return baseline_of(evaluation.confidence, evaluation.class_mix)

    def tables(self, evaluation: LabelEvaluation) -> str:
        """Return the metrics for terminal and model card."""
        return label_tables(evaluation)

    def calibration_items(self, data: LabelledData) -> Sequence[Raw]:
        """Return validation texts, evenly chosen."""
        part = data.parts.validation.tolist()
        return [data.table.texts[i] for i in part[:: max(1, len(part) // CALIBRATION_ITEMS)]]

    def guarded_metrics(self, data: LabelledData) -> Mapping[str, bool]:
        """Return the metrics that a smaller variant must keep."""
        names = ["accuracy", "macro_f1"]
        if windows := self.job.recipe.windows:
            names += [f"window{windows.measured}_{kind}" for kind in ("accuracy", "coverage")]
        return dict.fromkeys(names, True)
