"""The small language, spoken by synthetic voices, as a source to learn from.

What is learnt from is spoken once and kept; what is held out is spoken by other voices, and each
utterance is a file in every condition.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from training.recipes.speech_recipes import SpeechRecipe, SpokenCommandsData
from training.speech.dataset import SpokenFile, SpokenSet
from training.speech.synthetic.conditions import CONDITIONS, heard_file
from training.speech.synthetic.corpus import corpus_folder, spoken_corpus
from training.speech.synthetic.grammar import Sentence, draw_sentence
from training.speech.synthetic.synthesis import Order, speak
from training.speech.synthetic.voices import (
    Voice,
    cast,
    draw_held_out_manner,
    draw_manner,
    draw_voice,
    told_of,
)

_TRAIN, _VALIDATION, _TEST = 21, 22, 23  # first numbers of the parts' seeds
_TWO_SENTENCES = 0.12  # share of utterances to learn from that are two, with a pause between


class SpokenCommands:
    """The small language.

    Args:
        recipe: How much, the voices, the sample rate and the seed.
        cache: Folder that what is learnt from is kept in.

    Raises:
        DataRejected: A synthesiser or a voice is missing.
    """

    def __init__(self, recipe: SpeechRecipe, cache: Path) -> None:
        assert isinstance(recipe.data, SpokenCommandsData), "a recipe without spoken commands"
        self._settings, self._seed, self._cache = recipe.data, recipe.split.seed, cache
        self._rate = recipe.input.sample_rate
        self._cast = cast(recipe.data.voices)
        settings = self._settings
        self.description = (
            f"a small language of numbers, digits, dates, times, words and orders, spoken by speech "
            f"synthesisers: {settings.train} utterances to learn from by {told_of(self._cast.train)}, "
            f"{settings.validation} for validation by {told_of(self._cast.validation)}, "
            f"{settings.test} held out by {told_of(self._cast.test)}, each clean, with noise and over the "
            f"telephone; {self._known_sentences()} of those are sentences that are also learnt from"
        )
        self.split = (
            f"by voice, seed {self._seed}; validation: {', '.join(map(str, self._cast.validation))}; "
            f"test: {', '.join(map(str, self._cast.test))}"
        )

    def training_set(self) -> SpokenSet:
        """Give what is learnt from, spoken now unless it is kept from before."""
        orders = self._training_orders
        texts = [order.text.replace(",", "") for order in orders]
        folder = corpus_folder(self._cache, "spoken", orders, self._rate)
        return spoken_corpus(folder, orders, texts, self._rate)

    def validation_files(self) -> list[SpokenFile]:
        """Speak what to stop by, in one condition each."""
        return self._files(_VALIDATION)[0]

    def held_out_files(self) -> list[SpokenFile]:
        """Speak the test part; each utterance is there in every condition."""
        return [file for variant in self._files(_TEST) for file in variant]

    @cached_property
    def _training_orders(self) -> list[Order]:
        orders = []
        for number in range(self._settings.train):
            random = np.random.default_rng((_TRAIN, self._seed, number))
            text = draw_sentence(random).text
            if random.random() < _TWO_SENTENCES:
                text = f"{text}, {draw_sentence(random).text}"
            voice = draw_voice(self._cast.train, random)
            orders.append(Order(text, voice, draw_manner(voice, random)))
        return orders

    @cached_property
    def _learnt_sentences(self) -> frozenset[str]:
        return frozenset(order.text for order in self._training_orders)

    def _held_out(self, part: int) -> list[tuple[Sentence, Order]]:
        """Draw what is held out: voices take turns, so that each speaks equally often."""
        count = self._settings.validation if part == _VALIDATION else self._settings.test
        voices = self._cast.validation if part == _VALIDATION else self._cast.test
        drawn = []
        for number in range(count):
            random = np.random.default_rng((part, self._seed, number))
            sentence, voice = draw_sentence(random), voices[number % len(voices)]
            drawn.append((sentence, Order(sentence.text, voice, draw_held_out_manner(random))))
        return drawn

    def _files(self, part: int) -> list[list[SpokenFile]]:
        """Make the files of a part: a list for each condition, or one of all conditions for validation."""
        drawn = self._held_out(part)
        learnt = self._learnt_sentences
        spoken = speak([order for _, order in drawn], self._rate)
        files: list[list[SpokenFile]] = [[] for _ in CONDITIONS]
        for number, ((sentence, order), samples) in enumerate(zip(drawn, spoken, strict=True)):
            turn = number // len(self._cast.validation) % len(CONDITIONS)
            chosen = CONDITIONS if part == _TEST else (CONDITIONS[turn],)
            talkers = [spoken[(number + step) % len(spoken)] for step in range(1, min(20, len(spoken)))]
            for place, condition in enumerate(chosen):
                random = np.random.default_rng((part, self._seed, number, place))
                content = heard_file(samples, self._rate, condition, talkers, random)
                traits = traits_of(order.voice, condition, sentence.kind)
                traits += (f"sentence: {'also learnt from' if sentence.text in learnt else 'new'}",)
                name = f"{condition}-{number:04d}.{'wav' if condition == 'telephone' else 'flac'}"
                files[place].append(SpokenFile(name, content, sentence.text, traits))
        return files

    def _known_sentences(self) -> int:
        """Count the held-out sentences that are also learnt from: the language is small."""
        learnt = self._learnt_sentences
        return sum(sentence.text in learnt for sentence, _ in self._held_out(_TEST))


def traits_of(voice: Voice, condition: str, kind: str) -> tuple[str, ...]:
    """Name what is notable about a spoken file."""
    return (
        *[f"voice: {voice}", f"condition: {condition}", f"engine: {voice.engine}", f"kind: {kind}"],
        f"voice and condition: {voice}, {condition}",
    )
