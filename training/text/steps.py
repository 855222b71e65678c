"""What the steps for texts have in common."""

from __future__ import annotations

from abc import ABC
from typing import Any, TypeVar

from training.core.card import CardText
from training.core.learner import Learner
from training.core.steps import DataclassInstance, Steps
from training.recipes.text_recipe import TextClassificationRecipe, TextEmbeddingRecipe
from training.text.dataset import LabelledTexts, TextData, TextPairs

RecipeKind = TypeVar("RecipeKind", TextClassificationRecipe, TextEmbeddingRecipe)
Data = TypeVar("Data", TextData[LabelledTexts], TextData[TextPairs])
LearnerKind = TypeVar("LearnerKind", bound=Learner[Any, Any])
Evaluation = TypeVar("Evaluation", bound=DataclassInstance)


class TextSteps(Steps[RecipeKind, Data, LearnerKind, Evaluation], ABC):
    """The commands of a recipe for texts."""

    card_text = CardText("Measured on held-out texts, from raw text to answer with ONNX Runtime.")

    def describe(self, data: Data) -> str:
        """Return what is printed about the data before training."""
        return f"{data.description}\n{data.parts.description}"
