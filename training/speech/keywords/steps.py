"""The commands of a recipe that tells short sounds apart."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from service.manifest import VERSION_FILE, VersionFacts, read
from service.tasks.classification import read_labels
from training.errors import DataRejected
from training.job import Job, newest_version, write_json
from training.quantize import CALIBRATION_ITEMS, Subject
from training.recipes.speech_recipes import KeywordsRecipe, SpeechTableData
from training.speech.card import CURVES_FILE
from training.speech.keyword_card import write_keyword_card
from training.speech.keywords.answers import heard_by_version
from training.speech.keywords.figures import KeywordFigures, measure_keywords, rates
from training.speech.keywords.fit import fit_keywords
from training.speech.keywords.learner import KeywordLearner
from training.speech.keywords.tables import keyword_tables
from training.speech.keywords.version import Origin, fill_version
from training.speech.speech_table import SpeechTable
from training.speech.spoken_words import SpokenWords
from training.speech.utterances import SpeechSource
from training.trainer import load_learner
from training.version_folder import Place, publish


@dataclass(frozen=True, slots=True)
class KeywordSteps:
    """What the command line can ask of a recipe for telling sounds apart; see `training.steps`."""

    job: Job[KeywordsRecipe]

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
            raise DataRejected("a model for sounds is measured as it is served: export the checkpoint first")
        folder = newest_version(model or Path("models") / self.job.recipe.name)
        if folder is None:
            raise DataRejected(f"there is no version of {self.job.recipe.name}: export one first")
        facts = read(folder / VERSION_FILE, VersionFacts)
        heard = heard_by_version(folder, self._source().held_out_files(), facts)
        figures = measure_keywords(heard, read_labels(folder, facts))
        write_json(self.job.run.folder / "evaluation.json", dataclasses.asdict(figures))
        self._say(keyword_tables(figures))

    def subject(self) -> Subject:
        """Say what a smaller variant is made with and judged by."""
        source = self._source()
        files = source.held_out_files()

        def measure(folder: Path, facts: VersionFacts) -> dict[str, float]:
            heard = heard_by_version(folder, files, facts)
            return rates(measure_keywords(heard, read_labels(folder, facts)))

        items = [file.content for file in source.validation_files()[:CALIBRATION_ITEMS]]
        return Subject(items, measure, dict.fromkeys(("accuracy", "macro_f1"), True))

    def _source(self) -> SpeechSource:
        if isinstance(self.job.recipe.data, SpeechTableData):
            return SpeechTable(self.job.recipe, self.job.runs)
        return SpokenWords(self.job.recipe, self.job.runs)

    def _fit(self, source: SpeechSource, *, resume: bool) -> Path:
        self._say(f"{self.job.recipe.name}: {source.description}")
        best = fit_keywords(self.job, source, resume=resume)
        self._say(f"best checkpoint: {best}")
        return best

    def _export(self, checkpoint: Path, source: SpeechSource, place: Place) -> None:
        learner = load_learner(checkpoint, KeywordLearner)
        recipe = self.job.recipe
        origin = Origin(
            self.job.provenance(source.description, learner.recipe.seed),
            source.validation_files(),
            source.held_out_files(),
            source.split,
        )

        def fill(folder: Path) -> tuple[VersionFacts, KeywordFigures]:
            return fill_version(folder, learner, recipe, origin)

        folder, figures = publish(recipe.manifest, place, fill)
        tables = keyword_tables(figures)
        write_keyword_card(folder, recipe, tables, self.job.run.folder / CURVES_FILE)
        self._say(tables)
        self._say(f"exported and checked: {folder}")

    def _say(self, text: str) -> None:
        self.job.console.print(text, highlight=False, markup=False, soft_wrap=True)
