"""The commands of a recipe for speech recognition."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from training.job import Job
from training.recipes.speech_recipes import (
    SpeechFolderData,
    SpeechRecipe,
    SpeechTableData,
)
from training.speech.fit import fit_speech
from training.speech.speech_folder import SpeechFolder
from training.speech.speech_table import SpeechTable
from training.speech.spoken_commands import SpokenCommands
from training.speech.utterances import SpeechSource
from training.version_folder import Place


@dataclass(frozen=True, slots=True)
class SpeechSteps:
    """What the command line can ask of a recipe for speech recognition; see `training.steps`."""

    job: Job[SpeechRecipe]

    def fit(self, *, resume: bool) -> None:
        """Train."""
        self._fit(self._source(), resume=resume)

    def build(self, place: Place) -> None:
        """Train, export and evaluate."""
        raise NotImplementedError

    def export(self, checkpoint: Path | None, place: Place) -> None:
        """Export a checkpoint and evaluate the version."""
        raise NotImplementedError

    def evaluate(self, checkpoint: Path | None, model: Path | None, blocks: int) -> None:
        """Measure the newest version of a model folder."""
        raise NotImplementedError

    def _source(self) -> SpeechSource:
        data = self.job.recipe.data
        if isinstance(data, SpeechFolderData):
            return SpeechFolder(self.job.recipe)
        if isinstance(data, SpeechTableData):
            return SpeechTable(self.job.recipe)
        return SpokenCommands(self.job.recipe, self.job.runs)

    def _fit(self, source: SpeechSource, *, resume: bool) -> Path:
        self._say(f"{self.job.recipe.name}: {source.description}")
        best = fit_speech(self.job, source, resume=resume)
        self._say(f"best checkpoint: {best}")
        return best

    def _say(self, text: str) -> None:
        self.job.console.print(text, highlight=False, markup=False, soft_wrap=True)
