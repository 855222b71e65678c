"""The commands of a recipe that classifies texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from service.manifest import VERSION_FILE, Baseline, VersionFacts, read, write
from service.tasks.classification import read_labels
from training.errors import DataRejected
from training.job import Job, newest_version
from training.quantize import CALIBRATION_ITEMS, Subject
from training.recipes.text_recipes import TextLabelsRecipe
from training.text.calibrate import calibrate
from training.text.card import write_text_card
from training.text.label_figures import LabelEvaluation, evaluate_labels
from training.text.label_golden import choose_golden_texts
from training.text.label_learner import LabelLearner
from training.text.label_tables import label_tables
from training.text.labels import LabelData, fit_labels, open_labelled
from training.text.tokens import byte_tokenizer
from training.text.version import TextModel, with_figures, write_files
from training.trainer import load_learner
from training.version_folder import Place, publish, quantiles


@dataclass(frozen=True, slots=True)
class LabelSteps:
    """What the command line can ask of a recipe for classifying texts; see `training.steps`."""

    job: Job[TextLabelsRecipe]

    def fit(self, *, resume: bool) -> None:
        """Train."""
        self._fit(open_labelled(self.job.recipe), resume=resume)

    def build(self, place: Place) -> None:
        """Train, export and evaluate."""
        place.resolve(self.job.recipe.name)  # a taken place is told before the training, not after it
        data = open_labelled(self.job.recipe)
        self._export(self._fit(data, resume=False), data, place)

    def export(self, checkpoint: Path | None, place: Place) -> None:
        """Export a checkpoint and evaluate the version."""
        self._export(checkpoint or self.job.run.best, open_labelled(self.job.recipe), place)

    def evaluate(self, checkpoint: Path | None, model: Path | None, blocks: int) -> None:
        """Measure the newest version of a model folder.

        Raises:
            DataRejected: There is none, or it has other labels than the data.
        """
        if checkpoint or blocks:
            raise DataRejected("a text model is measured as it is served: export the checkpoint first")
        folder = newest_version(model or Path("models") / self.job.recipe.name)
        if folder is None:
            raise DataRejected(f"there is no version of {self.job.recipe.name}: export one first")
        data = open_labelled(self.job.recipe)
        facts = read(folder / VERSION_FILE, VersionFacts)
        if read_labels(folder, facts) != data.table.classes:
            raise DataRejected(f"{folder} answers with other labels than {data.table.description}")
        self._say(label_tables(evaluate_labels(folder, facts, data, self.job.recipe)))

    def subject(self) -> Subject:
        """Say what a smaller variant is made with and judged by."""
        recipe = self.job.recipe
        data = open_labelled(recipe)
        table, part = data.table, data.parts.validation.tolist()
        items = [table.texts[i] for i in part[:: max(1, len(part) // CALIBRATION_ITEMS)]]

        def measure(folder: Path, facts: VersionFacts) -> dict[str, float]:
            return _figures(evaluate_labels(folder, facts, data, recipe))

        guarded = ["accuracy", "macro_f1"]
        if recipe.windows:
            guarded += [f"window{recipe.windows.measured}_{kind}" for kind in ("accuracy", "coverage")]
        return Subject(items, measure, dict.fromkeys(guarded, True))

    def _fit(self, data: LabelData, *, resume: bool) -> Path:
        parts = data.parts
        self._say(
            f"{self.job.recipe.name}: {data.table.description}\n{len(parts.train)} to learn from, "
            f"{len(parts.validation)} for validation, {len(parts.test)} held out"
        )
        best = fit_labels(self.job.recipe, data, self.job.run, self.job.console, resume=resume)
        self._say(f"best checkpoint: {best}")
        return best

    def _export(self, checkpoint: Path, data: LabelData, place: Place) -> None:
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
        write_text_card(folder, recipe, tables)
        self._say(tables)
        self._say(f"exported and checked: {folder}")

    def _say(self, text: str) -> None:
        self.job.console.print(text, highlight=False, markup=False, soft_wrap=True)


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
