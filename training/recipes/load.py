"""Load a recipe; its task determines its class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from service.errors import ModelRejected
from service.repository.manifest import TaskName, read
from training.errors import DataRejected
from training.recipes.detection_recipe import DetectionRecipe
from training.recipes.image_recipe import ImageRecipe
from training.recipes.recipe import Recipe
from training.recipes.speech_recipe import KeywordsRecipe, SpeechRecipe
from training.recipes.text_recipe import TextClassificationRecipe, TextEmbeddingRecipe

RECIPES_FOLDER = Path(__file__).parent
RECIPES: Mapping[TaskName, type[Recipe]] = {
    "audio-classification": KeywordsRecipe,
    "image-classification": ImageRecipe,
    "object-detection": DetectionRecipe,
    "speech-recognition": SpeechRecipe,
    "text-classification": TextClassificationRecipe,
    "text-embedding": TextEmbeddingRecipe,
}


class _Named(BaseModel):
    model_config = ConfigDict(extra="ignore")

    task: TaskName


class _Headed(BaseModel):
    model_config = ConfigDict(extra="ignore")

    manifest: _Named


def load_recipe(name_or_path: str) -> Recipe:
    """Load a recipe by its name, or by the path of its YAML file.

    Raises:
        DataRejected: There is no such recipe, or a key in it is unknown, missing or out of range.
    """
    shipped = RECIPES_FOLDER / f"{name_or_path}.yaml"
    path = shipped if shipped.is_file() else Path(name_or_path)
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in RECIPES_FOLDER.glob("*.yaml")))
        raise DataRejected(
            f"there is no recipe {name_or_path}: give the path of a YAML file, or one of {names}"
        )
    try:
        task = read(path, _Headed).manifest.task
        if task not in RECIPES:
            raise DataRejected(f"recipe {path.name}: there is no training for {task}")
        return read(path, RECIPES[task])
    except ModelRejected as error:
        raise DataRejected(f"recipe {error}") from error
