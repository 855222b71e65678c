"""Speaking what a recipe learns from before anything is trained; training does it by itself else."""

from __future__ import annotations

from pathlib import Path

from training.errors import DataRejected
from training.recipes.recipe import Recipe
from training.recipes.speech_recipes import KeywordsRecipe, SpeechRecipe, SpokenCommandsData, SpokenWordsData
from training.speech.dataset import SpokenSet
from training.speech.synthetic.spoken_commands import SpokenCommands
from training.speech.synthetic.spoken_words import SpokenWords


def speak_ahead(recipe: Recipe, runs: Path) -> str:
    """Speak what a recipe learns from into the runs folder, and tell how much it is.

    Raises:
        DataRejected: Nothing is spoken for this recipe, or a synthesiser or a voice is missing.
    """
    if isinstance(recipe, SpeechRecipe) and isinstance(recipe.data, SpokenCommandsData):
        return _told(SpokenCommands(recipe, runs).training_set(), recipe.input.sample_rate)
    if isinstance(recipe, KeywordsRecipe) and isinstance(recipe.data, SpokenWordsData):
        return _told(SpokenWords(recipe, runs).training_set(), recipe.input.sample_rate)
    raise DataRejected(f"the recipe of {recipe.name} learns from nothing that is spoken for it")


def _told(spoken: SpokenSet, sample_rate: int) -> str:
    hours = int(spoken.offsets[-1]) / sample_rate / 3600
    return f"{len(spoken)} utterances by {len(set(spoken.voices))} voices, {hours:.1f} hours"
