"""What the steps for sounds have in common."""

from __future__ import annotations

import dataclasses
from abc import ABC
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from service.tasks.task import Raw
from training.core.card import CardText
from training.core.curves import copy_curves
from training.core.quantize import CALIBRATION_ITEMS
from training.core.steps import DataclassInstance, Steps
from training.recipes.speech_recipe import KeywordsRecipe, SpeechRecipe
from training.speech.dataset import SpeechSource
from training.speech.learner import SoundLearner
from training.speech.sources import open_source

RecipeKind = TypeVar("RecipeKind", bound=KeywordsRecipe | SpeechRecipe)
LearnerKind = TypeVar("LearnerKind", bound=SoundLearner[Any, Any])
Evaluation = TypeVar("Evaluation", bound=DataclassInstance)


class SoundSteps(Steps[RecipeKind, SpeechSource, LearnerKind, Evaluation], ABC):
    """The commands of a recipe for sounds."""

    def open(self) -> SpeechSource:
        """Read the recordings and divide them."""
        return open_source(self.job.recipe, self.job.runs)

    def extend_model(self, model: Path, evaluation: Evaluation) -> CardText:
        """Copy the training curves beside the model card."""
        return dataclasses.replace(self.card_text, training=copy_curves(self.job.run.folder, model))

    def calibration_items(self, data: SpeechSource) -> Sequence[Raw]:
        """Return validation files."""
        return [file.content for file in data.validation_files()[:CALIBRATION_ITEMS]]
