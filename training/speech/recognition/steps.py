"""The commands of a recipe for speech recognition."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from service.manifest import VERSION_FILE, VersionFacts, read
from training.errors import DataRejected
from training.job import Job, newest_version, write_json
from training.quantize import CALIBRATION_ITEMS, Subject
from training.recipes.speech_recipes import SpeechFolderData, SpeechRecipe, SpeechTableData
from training.speech.card import CURVES_FILE, write_speech_card
from training.speech.recognition.answers import answers_of_version
from training.speech.recognition.figures import SpeechFigures, measure, rates
from training.speech.recognition.fit import fit_speech
from training.speech.recognition.learner import SpeechLearner
from training.speech.recognition.tables import speech_tables
from training.speech.recognition.version import Origin, fill_version
from training.speech.speech_folder import SpeechFolder
from training.speech.speech_table import SpeechTable
from training.speech.spoken_commands import SpokenCommands
from training.speech.utterances import SpeechSource
from training.trainer import load_learner
from training.version_folder import Place, publish


@dataclass(frozen=True, slots=True)
class SpeechSteps:
    """What the command line can ask of a recipe for speech recognition; see `training.steps`."""

    job: Job[SpeechRecipe]

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
        """Measure the newest version of a model folder.

        Raises:
            DataRejected: There is none.
        """
        if checkpoint or blocks:
            raise DataRejected("a speech model is measured as it is served: export the checkpoint first")
        folder = newest_version(model or Path("models") / self.job.recipe.name)
        if folder is None:
            raise DataRejected(f"there is no version of {self.job.recipe.name}: export one first")
        facts = read(folder / VERSION_FILE, VersionFacts)
        files = self._source().held_out_files()
        answers = answers_of_version(folder, files, facts)
        figures = measure(list(zip(files, answers, strict=True)))
        write_json(self.job.run.folder / "evaluation.json", dataclasses.asdict(figures))
        self._say(speech_tables(figures))

    def subject(self) -> Subject:
        """Say what a smaller variant is made with and judged by."""
        source = self._source()
        files = source.held_out_files()

        def figures(folder: Path, facts: VersionFacts) -> dict[str, float]:
            answers = answers_of_version(folder, files, facts)
            return dict(rates(measure(list(zip(files, answers, strict=True)))))

        items = [file.content for file in source.validation_files()[:CALIBRATION_ITEMS]]
        return Subject(items, figures, dict.fromkeys(("word_error_rate", "greedy_word_error_rate"), False))

    def _source(self) -> SpeechSource:
        data = self.job.recipe.data
        if isinstance(data, SpeechFolderData):
            return SpeechFolder(self.job.recipe, self.job.runs)
        if isinstance(data, SpeechTableData):
            return SpeechTable(self.job.recipe, self.job.runs)
        return SpokenCommands(self.job.recipe, self.job.runs)

    def _fit(self, source: SpeechSource, *, resume: bool) -> Path:
        self._say(f"{self.job.recipe.name}: {source.description}")
        best = fit_speech(self.job, source, resume=resume)
        self._say(f"best checkpoint: {best}")
        return best

    def _export(self, checkpoint: Path, source: SpeechSource, place: Place) -> None:
        learner = load_learner(checkpoint, SpeechLearner)
        recipe = self.job.recipe
        origin = Origin(
            self.job.provenance(source.description, learner.recipe.seed),
            source.training_set().texts,
            source.validation_files(),
            source.held_out_files(),
            source.split,
        )

        def fill(folder: Path) -> tuple[VersionFacts, SpeechFigures]:
            return fill_version(folder, learner, recipe, origin)

        folder, figures = publish(recipe.manifest, place, fill)
        tables = speech_tables(figures)
        write_speech_card(folder, recipe, tables, self.job.run.folder / CURVES_FILE)
        self._say(tables)
        self._say(f"exported and checked: {folder}")

    def _say(self, text: str) -> None:
        self.job.console.print(text, highlight=False, markup=False, soft_wrap=True)
