"""The commands of a recipe that classifies texts."""

from __future__ import annotations

from pathlib import Path

from service.repository.manifest import VERSION_FILE, Baseline, VersionFacts, write
from service.tasks.classification import read_labels
from training.core.card import write_card
from training.core.quantize import CALIBRATION_ITEMS, Subject
from training.core.steps import CommonSteps
from training.core.trainer import load_learner
from training.core.version_folder import Place, publish, quantiles, with_figures
from training.errors import DataRejected
from training.recipes.text_recipes import TextLabelsRecipe
from training.text.classification.calibration import calibrate
from training.text.classification.fit import LabelData, fit_labels, open_labelled
from training.text.classification.golden import choose_golden_texts
from training.text.classification.learner import LabelLearner
from training.text.classification.metrics import LabelEvaluation, evaluate_labels
from training.text.classification.tables import label_tables
from training.text.tokens import byte_tokenizer
from training.text.version import TEXT_CARD, TextModel, write_files


class LabelSteps(CommonSteps[TextLabelsRecipe, LabelData]):
    """What the command line can ask of a recipe for classifying texts."""

    def open(self) -> LabelData:
        """Read the texts and divide them."""
        return open_labelled(self.job.recipe)

    def describe(self, data: LabelData) -> str:
        """Say what there is to learn from."""
        return f"{data.table.description}\n{data.parts.description}"

    def train(self, data: LabelData, *, resume: bool) -> Path:
        """Train; returns the best checkpoint."""
        return fit_labels(self.job.recipe, data, self.job.run, self.job.console, resume=resume)

    def measure(self, folder: Path, facts: VersionFacts, data: LabelData) -> str:
        """Measure a version; returns its figures as Markdown.

        Raises:
            DataRejected: It has other labels than the data.
        """
        if read_labels(folder, facts) != data.table.classes:
            raise DataRejected(f"{folder} answers with other labels than {data.table.description}")
        return label_tables(evaluate_labels(folder, facts, data, self.job.recipe))

    def subject(self) -> Subject:
        """Say what a smaller variant is made with and judged by."""
        recipe = self.job.recipe
        data = self.open()
        table, part = data.table, data.parts.validation.tolist()
        items = [table.texts[i] for i in part[:: max(1, len(part) // CALIBRATION_ITEMS)]]

        def measure(folder: Path, facts: VersionFacts) -> dict[str, float]:
            return _figures(evaluate_labels(folder, facts, data, recipe))

        guarded = ["accuracy", "macro_f1"]
        if recipe.windows:
            guarded += [f"window{recipe.windows.measured}_{kind}" for kind in ("accuracy", "coverage")]
        return Subject(items, measure, dict.fromkeys(guarded, True))

    def publish(self, checkpoint: Path, data: LabelData, place: Place) -> tuple[Path, str]:
        """Export a checkpoint and write the card; returns the version's folder and its figures."""
        learner = load_learner(checkpoint, LabelLearner)
        recipe = self.job.recipe
        threshold = calibrate(learner, data, recipe)
        model = TextModel(
            recipe.manifest,
            recipe.input,
            learner.graph.eval(),
            byte_tokenizer(),
            self.job.provenance(data.table.description, learner.recipe.seed),
            learner.classes,
            threshold,
        )

        def fill(folder: Path) -> tuple[VersionFacts, LabelEvaluation]:
            draft = write_files(folder, model, choose_golden_texts(model, data))
            evaluation = evaluate_labels(folder, draft, data, recipe)
            facts = _facts(draft, evaluation, recipe)
            write(folder / VERSION_FILE, facts)
            return facts, evaluation

        folder, evaluation = publish(recipe.manifest, place, fill)
        tables = label_tables(evaluation)
        write_card(folder, recipe, tables, TEXT_CARD)
        return folder, tables


def _figures(evaluation: LabelEvaluation) -> dict[str, float]:
    figures = {
        "accuracy": evaluation.whole.accuracy,
        "coverage": evaluation.whole.coverage,
        "macro_f1": evaluation.macro_f1,
    }
    for length, windows in evaluation.windows.items():
        figures[f"window{length}_accuracy"] = windows.answered_accuracy
        figures[f"window{length}_coverage"] = windows.coverage
    return figures


def _facts(draft: VersionFacts, evaluation: LabelEvaluation, recipe: TextLabelsRecipe) -> VersionFacts:
    kept = "by group" if recipe.data.group else "stratified"
    counts: dict[str, float | str] = {
        "held_out_items": float(evaluation.whole.items),
        "split": f"{kept}, {recipe.split.test:.0%} for testing, seed {recipe.split.seed}",
    }
    mix = {name: round(share, 4) for name, share in evaluation.class_mix.items()}
    return with_figures(
        draft,
        _figures(evaluation),
        counts,
        Baseline(class_mix=mix, confidence=quantiles(evaluation.confidence)),
    )
