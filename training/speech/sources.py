"""Open the data of a recipe for sounds, by their kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from training.errors import DataRejected
from training.recipes.recipe import Recipe
from training.recipes.speech_recipe import KeywordsRecipe, SpeechRecipe
from training.speech.dataset import SpeechSource
from training.speech.speech_folder import SpeechFolder
from training.speech.speech_table import SpeechTable
from training.speech.synthetic.spoken_commands import SpokenCommands
from training.speech.synthetic.spoken_words import SpokenWords

_SYNTHETIC: Mapping[str, Callable[[Any, Path], SpeechSource]] = {
    "spoken-commands": SpokenCommands,
    "spoken-words": SpokenWords,
}
_SOURCES: Mapping[str, Callable[[Any, Path], SpeechSource]] = {
    **_SYNTHETIC,
    "speech-folder": SpeechFolder,
    "speech-table": SpeechTable,
}


def open_source(recipe: KeywordsRecipe | SpeechRecipe, cache: Path) -> SpeechSource:
    """Return the data of a recipe.

    Args:
        recipe: The recipe.
        cache: Folder for decoded and synthesized sounds.

    Raises:
        DataRejected: The data cannot be trained on.
    """
    return _SOURCES[recipe.data.kind](recipe, cache)


def synthesize_training_set(recipe: Recipe, runs: Path) -> str:
    """Synthesize the training set of a recipe into the runs folder; return a description for people.

    Raises:
        DataRejected: The recipe has no synthetic speech, or a synthesizer or a voice is missing.
    """
    if not isinstance(recipe, KeywordsRecipe | SpeechRecipe) or recipe.data.kind not in _SYNTHETIC:
        raise DataRejected(f"the recipe of {recipe.name} does not learn from synthetic speech")
    sounds = open_source(recipe, runs).training_set()
    hours = int(sounds.offsets[-1]) / recipe.input.sample_rate / 3600
    return f"{len(sounds)} utterances by {len(set(sounds.voices))} voices, {hours:.1f} hours"
