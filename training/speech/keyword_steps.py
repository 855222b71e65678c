"""The commands of a recipe that tells short sounds apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from training.errors import DataRejected
from training.job import Job
from training.recipes.speech_recipes import KeywordsRecipe, SpeechTableData
from training.speech.keyword_fit import fit_keywords
from training.speech.speech_table import SpeechTable
from training.speech.spoken_words import SpokenWords
from training.speech.utterances import SpeechSource
from training.version_folder import Place


@dataclass(frozen=True, slots=True)
class KeywordSteps:
    """What the command line can ask of a recipe for telling sounds apart; see `training.steps`."""

    job: Job[KeywordsRecipe]

    def fit(self, *, resume: bool) -> None:
        """Train."""
        self._fit(self._source(), resume=resume)

    def build(self, place: Place) -> None:
        """Train, export and evaluate."""
        raise DataRejected("a network for sounds is only fitted so far")

    def export(self, checkpoint: Path | None, place: Place) -> None:
        """Export a checkpoint and evaluate the version."""
        raise DataRejected("a network for sounds is only fitted so far")

    def evaluate(self, checkpoint: Path | None, model: Path | None, blocks: int) -> None:
        """Measure the newest version of a model folder."""
        raise DataRejected("a network for sounds is only fitted so far")

    def _source(self) -> SpeechSource:
        if isinstance(self.job.recipe.data, SpeechTableData):
            return SpeechTable(self.job.recipe, self.job.runs)
        return SpokenWords(self.job.recipe, self.job.runs)

    def _fit(self, source: SpeechSource, *, resume: bool) -> Path:
        self._say(f"{self.job.recipe.name}: {source.description}")
        best = fit_keywords(self.job, source, resume=resume)
        self._say(f"best checkpoint: {best}")
        return best

    def _say(self, text: str) -> None:
        self.job.console.print(text, highlight=False, markup=False, soft_wrap=True)
