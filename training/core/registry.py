"""Which code a recipe's commands are done by: one class a kind of recipe, all with the same commands."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from rich.console import Console

from training.core.job import Job
from training.core.quantize import Subject
from training.core.version_folder import Place
from training.detection.steps import DetectorSteps
from training.images.steps import PictureSteps
from training.recipes.detection_recipe import DetectionRecipe
from training.recipes.recipe import PictureRecipe, Recipe
from training.recipes.speech_recipes import KeywordsRecipe, SpeechRecipe
from training.recipes.text_recipes import TextEmbeddingRecipe, TextLabelsRecipe
from training.speech.keywords.steps import KeywordSteps
from training.speech.recognition.steps import SpeechSteps
from training.text.classification.steps import LabelSteps
from training.text.embedding.steps import PairSteps


class Steps(Protocol):
    """What the command line can ask of a recipe."""

    def fit(self, *, resume: bool) -> None:
        """Train a network; the best checkpoint stays in the run folder."""

    def build(self, place: Place) -> None:
        """Fit, export and evaluate."""

    def export(self, checkpoint: Path | None, place: Place) -> None:
        """Turn a checkpoint, or else the run's best one, into a version."""

    def evaluate(self, checkpoint: Path | None, model: Path | None, blocks: int) -> None:
        """Measure on the held-out part.

        Args:
            checkpoint: To measure; None measures a version.
            model: Model folder whose newest version is measured; None is the one of the recipe's name.
            blocks: If not 0, train anew for each of so many contiguous blocks of pictures instead.
        """

    def subject(self) -> Subject:
        """Say what a smaller variant of a model is made with and judged by: `kotae-train quantize`."""


def steps_for(recipe: Recipe, runs: Path, console: Console, command: str) -> Steps:
    """Find what does a recipe's commands."""
    if isinstance(recipe, PictureRecipe):
        return PictureSteps(Job(recipe, runs, console, command))
    if isinstance(recipe, DetectionRecipe):
        return DetectorSteps(Job(recipe, runs, console, command))
    if isinstance(recipe, SpeechRecipe):
        return SpeechSteps(Job(recipe, runs, console, command))
    if isinstance(recipe, KeywordsRecipe):
        return KeywordSteps(Job(recipe, runs, console, command))
    if isinstance(recipe, TextLabelsRecipe):
        return LabelSteps(Job(recipe, runs, console, command))
    assert isinstance(recipe, TextEmbeddingRecipe), "a kind of recipe without steps"
    return PairSteps(Job(recipe, runs, console, command))
