"""Which steps run the commands of a recipe, by the task of its model.

This is the only module of `core` that imports modalities.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from service.repository.manifest import TaskName
from training.core.job import Job
from training.core.steps import Steps
from training.detection.steps import DetectorSteps
from training.images.steps import ImageSteps
from training.recipes.recipe import Recipe
from training.speech.keywords.steps import KeywordSteps
from training.speech.recognition.steps import SpeechSteps
from training.text.classification.steps import TextClassificationSteps
from training.text.embedding.steps import TextEmbeddingSteps

STEPS: Mapping[TaskName, type[Steps[Any, Any, Any, Any]]] = {
    "audio-classification": KeywordSteps,
    "image-classification": ImageSteps,
    "object-detection": DetectorSteps,
    "speech-recognition": SpeechSteps,
    "text-classification": TextClassificationSteps,
    "text-embedding": TextEmbeddingSteps,
}


def steps_for(recipe: Recipe, runs: Path, console: Console, command: str) -> Steps[Any, Any, Any, Any]:
    """Return the steps of a recipe.

    Args:
        recipe: The recipe.
        runs: Parent of the run folders.
        console: Where progress is printed.
        command: The command as it was typed.
    """
    return STEPS[recipe.manifest.task](Job(recipe, runs, console, command))
