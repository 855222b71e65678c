"""The commands of a recipe for speech recognition."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from service.repository.manifest import VersionFacts
from training.core.card import CardText, write_card
from training.core.curves import keep_curves
from training.core.job import write_json
from training.core.quantize import CALIBRATION_ITEMS, Subject
from training.core.steps import CommonSteps
from training.core.trainer import load_learner
from training.core.version_folder import Place, publish
from training.recipes.speech_recipes import SpeechFolderData, SpeechRecipe, SpeechTableData
from training.speech.dataset import SpeechSource
from training.speech.recognition.fit import fit_speech
from training.speech.recognition.learner import SpeechLearner
from training.speech.recognition.metrics import SpeechFigures, measure, rates
from training.speech.recognition.predict import answers_of_version
from training.speech.recognition.tables import speech_tables
from training.speech.recognition.version import fill_version
from training.speech.speech_folder import SpeechFolder
from training.speech.speech_table import SpeechTable
from training.speech.synthetic.spoken_commands import SpokenCommands

_MEASURED = """\
Measured on speech that the training did not hear, from raw file to answer through ONNX Runtime. The word
error rate counts words that are wrong, missing or too many, by the words that were said; beside it stands the
one without word list and language model."""


class SpeechSteps(CommonSteps[SpeechRecipe, SpeechSource]):
    """What the command line can ask of a recipe for speech recognition."""

    def open(self) -> SpeechSource:
        """Read what is said in the recordings and divide them."""
        data = self.job.recipe.data
        if isinstance(data, SpeechFolderData):
            return SpeechFolder(self.job.recipe, self.job.runs)
        if isinstance(data, SpeechTableData):
            return SpeechTable(self.job.recipe, self.job.runs)
        return SpokenCommands(self.job.recipe, self.job.runs)

    def describe(self, data: SpeechSource) -> str:
        """Say what there is to learn from."""
        return data.description

    def train(self, data: SpeechSource, *, resume: bool) -> Path:
        """Train; returns the best checkpoint."""
        return fit_speech(self.job, data, resume=resume)

    def measure(self, folder: Path, facts: VersionFacts, data: SpeechSource) -> str:
        """Measure a version; returns its figures as Markdown, and writes them into the run folder."""
        files = data.held_out_files()
        answers = answers_of_version(folder, files, facts)
        figures = measure(list(zip(files, answers, strict=True)))
        write_json(self.job.run.folder / "evaluation.json", dataclasses.asdict(figures))
        return speech_tables(figures)

    def subject(self) -> Subject:
        """Say what a smaller variant is made with and judged by."""
        source = self.open()
        files = source.held_out_files()

        def figures(folder: Path, facts: VersionFacts) -> dict[str, float]:
            answers = answers_of_version(folder, files, facts)
            return dict(rates(measure(list(zip(files, answers, strict=True)))))

        items = [file.content for file in source.validation_files()[:CALIBRATION_ITEMS]]
        return Subject(items, figures, dict.fromkeys(("word_error_rate", "greedy_word_error_rate"), False))

    def publish(self, checkpoint: Path, data: SpeechSource, place: Place) -> tuple[Path, str]:
        """Export a checkpoint and write the card; returns the version's folder and its figures."""
        learner = load_learner(checkpoint, SpeechLearner)
        recipe = self.job.recipe
        provenance = self.job.provenance(data.description, learner.recipe.seed)

        def fill(folder: Path) -> tuple[VersionFacts, SpeechFigures]:
            return fill_version(folder, learner, recipe, data, provenance)

        folder, figures = publish(recipe.manifest, place, fill)
        tables = speech_tables(figures)
        curves = keep_curves(self.job.run.folder, folder.parent)
        write_card(folder, recipe, tables, CardText(_MEASURED, training=curves))
        return folder, tables
