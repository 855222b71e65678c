"""Sentences of the small language by synthetic voices, as a source of speech data.

The training part is synthesized once and kept in the cache. Other voices speak validation and test part; each
test utterance becomes a file in every condition.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from training.recipes.speech_recipe import SpeechRecipe, SpokenCommandsData
from training.speech.dataset import SpeechFile, SpeechTrainingSet
from training.speech.synthetic.conditions import CONDITIONS, file_in_condition
from training.speech.synthetic.corpus import corpus_folder, synthesize_corpus
from training.speech.synthetic.grammar import Sentence, draw_sentence
from training.speech.synthetic.source import SyntheticSource
from training.speech.synthetic.synthesis import SpeechRequest, synthesize
from training.speech.synthetic.voices import (
    Voice,
    describe_voices,
    draw_prosody,
    draw_test_prosody,
    draw_voice,
)

_TRAIN, _VALIDATION, _TEST = 21, 22, 23  # first numbers of the parts' seeds
_TWO_SENTENCES = 0.12  # share of training utterances that are two sentences with a pause between


class SpokenCommands(SyntheticSource):
    """Sentences of the small language; see `SyntheticSource`.

    Args:
        recipe: Number of utterances, voices, sample rate and seed.
        cache: Folder for the synthesized training set.
    """

    def __init__(self, recipe: SpeechRecipe, cache: Path) -> None:
        assert isinstance(recipe.data, SpokenCommandsData), "a recipe without spoken commands"
        super().__init__(recipe, recipe.data.voices, cache)
        settings, voices = recipe.data, self._voices
        self._settings = settings
        self.description = (
            f"a small language of numbers, digits, dates, times, words and orders, spoken by speech "
            f"synthesisers: {settings.train} utterances to learn from by {describe_voices(voices.train)}, "
            f"{settings.validation} for validation by {describe_voices(voices.validation)}, "
            f"{settings.test} held out by {describe_voices(voices.test)}, each clean, with noise and over "
            f"the telephone; {self._known_sentences()} of those are sentences that are also learnt from"
        )

    def training_set(self) -> SpeechTrainingSet:
        """Return the training part, synthesized on the first call."""
        requests = self._training_requests
        texts = [request.text.replace(",", "") for request in requests]
        folder = corpus_folder(self._cache, "spoken", requests, self._rate)
        return synthesize_corpus(folder, requests, texts, self._rate)

    def validation_files(self) -> list[SpeechFile]:
        """Synthesize the validation part, each utterance in one condition."""
        return self._files(_VALIDATION)[0]

    def synthesize_test_files(self) -> list[SpeechFile]:
        """Synthesize the test part, each utterance in every condition."""
        return [file for variant in self._files(_TEST) for file in variant]

    @cached_property
    def _training_requests(self) -> list[SpeechRequest]:
        requests = []
        for number in range(self._settings.train):
            random = np.random.default_rng((_TRAIN, self._seed, number))
            text = draw_sentence(random).text
            if random.random() < _TWO_SENTENCES:
                text = f"{text}, {draw_sentence(random).text}"
            voice = draw_voice(self._voices.train, random)
            requests.append(SpeechRequest(text, voice, draw_prosody(voice, random)))
        return requests

    @cached_property
    def _training_sentences(self) -> frozenset[str]:
        return frozenset(request.text for request in self._training_requests)

    def _held_out(self, part: int) -> list[tuple[Sentence, SpeechRequest]]:
        """Draw the sentences of a part; voices take turns, so that each speaks equally often."""
        validation = part == _VALIDATION
        count = self._settings.validation if validation else self._settings.test
        voices = self._voices.validation if validation else self._voices.test
        drawn = []
        for number in range(count):
            random = np.random.default_rng((part, self._seed, number))
            sentence, voice = draw_sentence(random), voices[number % len(voices)]
            drawn.append((sentence, SpeechRequest(sentence.text, voice, draw_test_prosody(random))))
        return drawn

    def _files(self, part: int) -> list[list[SpeechFile]]:
        """Return the files of a part: a list per condition, or one of all conditions for validation."""
        drawn = self._held_out(part)
        spoken = synthesize([request for _, request in drawn], self._rate)
        files: list[list[SpeechFile]] = [[] for _ in CONDITIONS]
        for number, ((sentence, request), samples) in enumerate(zip(drawn, spoken, strict=True)):
            turn = number // len(self._voices.validation) % len(CONDITIONS)
            chosen = CONDITIONS if part == _TEST else (CONDITIONS[turn],)
            talkers = [spoken[(number + step) % len(spoken)] for step in range(1, min(20, len(spoken)))]
            known = sentence.text in self._training_sentences
            for place, condition in enumerate(chosen):
                random = np.random.default_rng((part, self._seed, number, place))
                content = file_in_condition(samples, self._rate, condition, talkers, random)
                traits = traits_of(request.voice, condition, sentence.kind)
                traits += (f"sentence: {'also learnt from' if known else 'new'}",)
                name = f"{condition}-{number:04d}.{'wav' if condition == 'telephone' else 'flac'}"
                files[place].append(SpeechFile(name, content, sentence.text, traits))
        return files

    def _known_sentences(self) -> int:
        """Count the test sentences that are also in the training part: the language is small."""
        return sum(sentence.text in self._training_sentences for sentence, _ in self._held_out(_TEST))


def traits_of(voice: Voice, condition: str, kind: str) -> tuple[str, ...]:
    """Return the traits of a spoken file."""
    return (
        *[f"voice: {voice}", f"condition: {condition}", f"engine: {voice.engine}", f"kind: {kind}"],
        f"voice and condition: {voice}, {condition}",
    )
