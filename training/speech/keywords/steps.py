"""The commands of a recipe that tells short sounds apart."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from service.repository.manifest import VersionFacts
from service.tasks.classification import read_labels
from training.core.card import CardText, write_card
from training.core.curves import keep_curves
from training.core.job import write_json
from training.core.quantize import CALIBRATION_ITEMS, Subject
from training.core.steps import CommonSteps
from training.core.trainer import load_learner
from training.core.version_folder import Place, publish
from training.recipes.speech_recipes import KeywordsRecipe, SpeechTableData
from training.speech.dataset import SpeechSource
from training.speech.keywords.fit import fit_keywords
from training.speech.keywords.learner import KeywordLearner
from training.speech.keywords.metrics import KeywordFigures, measure_keywords, rates
from training.speech.keywords.predict import heard_by_version
from training.speech.keywords.tables import keyword_tables
from training.speech.keywords.version import fill_version
from training.speech.speech_table import SpeechTable
from training.speech.synthetic.spoken_words import SpokenWords

_MEASURED = "Measured on sounds that the training did not hear, from raw file to answer through ONNX Runtime."
_LIMITS = "## Limits\n\nEvery sound is answered with one of the labels, also one that is none of them."


class KeywordSteps(CommonSteps[KeywordsRecipe, SpeechSource]):
    """What the command line can ask of a recipe for telling sounds apart."""

    def open(self) -> SpeechSource:
        """Read the sounds' labels and divide them."""
        if isinstance(self.job.recipe.data, SpeechTableData):
            return SpeechTable(self.job.recipe, self.job.runs)
        return SpokenWords(self.job.recipe, self.job.runs)

    def describe(self, data: SpeechSource) -> str:
        """Say what there is to learn from."""
        return data.description

    def train(self, data: SpeechSource, *, resume: bool) -> Path:
        """Train; returns the best checkpoint."""
        return fit_keywords(self.job, data, resume=resume)

    def measure(self, folder: Path, facts: VersionFacts, data: SpeechSource) -> str:
        """Measure a version; returns its figures as Markdown, and writes them into the run folder."""
        heard = heard_by_version(folder, data.held_out_files(), facts)
        figures = measure_keywords(heard, read_labels(folder, facts))
        write_json(self.job.run.folder / "evaluation.json", dataclasses.asdict(figures))
        return keyword_tables(figures)

    def subject(self) -> Subject:
        """Say what a smaller variant is made with and judged by."""
        source = self.open()
        files = source.held_out_files()

        def measure(folder: Path, facts: VersionFacts) -> dict[str, float]:
            heard = heard_by_version(folder, files, facts)
            return rates(measure_keywords(heard, read_labels(folder, facts)))

        items = [file.content for file in source.validation_files()[:CALIBRATION_ITEMS]]
        return Subject(items, measure, dict.fromkeys(("accuracy", "macro_f1"), True))

    def publish(self, checkpoint: Path, data: SpeechSource, place: Place) -> tuple[Path, str]:
        """Export a checkpoint and write the card; returns the version's folder and its figures."""
        learner = load_learner(checkpoint, KeywordLearner)
        recipe = self.job.recipe
        provenance = self.job.provenance(data.description, learner.recipe.seed)

        def fill(folder: Path) -> tuple[VersionFacts, KeywordFigures]:
            return fill_version(folder, learner, recipe, data, provenance)

        folder, figures = publish(recipe.manifest, place, fill)
        tables = keyword_tables(figures)
        curves = keep_curves(self.job.run.folder, folder.parent)
        write_card(folder, recipe, tables, CardText(_MEASURED, training=curves, behind=_LIMITS))
        return folder, tables
