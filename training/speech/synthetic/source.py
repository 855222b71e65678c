"""What the synthetic sources have in common: voices, parts and the cached test part."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path

from training.recipes.speech_recipe import KeywordsRecipe, SpeechRecipe, SpokenVoices
from training.speech.dataset import SpeechFile
from training.speech.synthetic.voices import split_voices


class SyntheticSource(ABC):
    """Speech of synthetic voices; see `SpeechSource`.

    Args:
        recipe: The recipe.
        voices: The voices of validation and test part.
        cache: Folder for the synthesized training set.

    Raises:
        DataRejected: A synthesizer or a voice is missing.
    """

    description: str

    def __init__(self, recipe: KeywordsRecipe | SpeechRecipe, voices: SpokenVoices, cache: Path) -> None:
        self._seed, self._rate, self._cache = recipe.split.seed, recipe.input.sample_rate, cache
        self._voices = split_voices(voices)
        self.split = (
            f"by voice, seed {self._seed}; validation: {', '.join(map(str, self._voices.validation))}; "
            f"test: {', '.join(map(str, self._voices.test))}"
        )

    @abstractmethod
    def synthesize_test_files(self) -> list[SpeechFile]:
        """Return the test part."""

    @cached_property
    def _test_files(self) -> list[SpeechFile]:
        return self.synthesize_test_files()

    def held_out_files(self) -> list[SpeechFile]:
        """Return the test part, synthesized on the first call."""
        return self._test_files
