"""Single words, other words and silence, as a source of data for keyword classification.

A clip is a word somewhere in a little more than a second. `unknown` is another word, or parts of several;
`silence` is the noise of a room or a machine, or digital silence.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from training.recipes.speech_recipe import KeywordsRecipe, SpokenWordsData
from training.speech.dataset import SpeechFile, SpeechTrainingSet
from training.speech.synthetic.conditions import CONDITIONS, file_in_condition
from training.speech.synthetic.corpus import corpus_folder, synthesize_corpus
from training.speech.synthetic.grammar import COMMANDS
from training.speech.synthetic.source import SyntheticSource
from training.speech.synthetic.synthesis import SpeechRequest, synthesize
from training.speech.synthetic.unknown_words import unknown_words
from training.speech.synthetic.voices import (
    Prosody,
    describe_voices,
    draw_prosody,
    draw_test_prosody,
    draw_voice,
)

SILENCE, UNKNOWN = "silence", "unknown"
LABELS = (*COMMANDS, SILENCE, UNKNOWN)
_TRAINING_LABELS = (*LABELS, UNKNOWN, UNKNOWN)  # there are more unknown words than keywords
_CLIP_SECONDS = (1.0, 1.5)
_SEVERAL = 0.2  # share of unknown clips that are cut from several words
_DIGITAL_SILENCE = 0.15  # share of silent clips without any sound

Part = Literal["train", "validation", "test"]
_SEEDS: dict[Part, int] = {"train": 31, "validation": 32, "test": 33}


class SpokenWords(SyntheticSource):
    """Clips of the 35 keywords, of other words and of silence; see `SyntheticSource`.

    Args:
        recipe: Number of clips, voices, sample rate and seed.
        cache: Folder for the synthesized training set.
    """

    def __init__(self, recipe: KeywordsRecipe, cache: Path) -> None:
        assert isinstance(recipe.data, SpokenWordsData), "a recipe without spoken words"
        super().__init__(recipe, recipe.data.voices, cache)
        settings, voices = recipe.data, self._voices
        self._settings = settings
        counts = {part: len(unknown_words(part)) for part in _SEEDS}
        self.description = (
            f"{len(COMMANDS)} words, other words and silence, spoken by speech synthesisers: "
            f"{settings.train} clips to learn from by {describe_voices(voices.train)}, "
            f"{settings.validation} for validation by {describe_voices(voices.validation)}, "
            f"{settings.test} held out by {describe_voices(voices.test)}, clean, with noise and over the "
            f"telephone; other words are {counts['train']} to learn from, {counts['validation']} for "
            f"validation and {counts['test']} that are only held out"
        )

    def training_set(self) -> SpeechTrainingSet:
        """Return the training part, synthesized on the first call; texts are labels."""
        labels = [_training_label(number) for number in range(self._settings.train)]
        folder = corpus_folder(self._cache, "words", self._training_requests, self._rate)
        return synthesize_corpus(folder, self._training_requests, labels, self._rate, self._training_clip)

    def validation_files(self) -> list[SpeechFile]:
        """Synthesize the validation part."""
        return self._files("validation", self._settings.validation)

    def synthesize_test_files(self) -> list[SpeechFile]:
        """Synthesize the test part."""
        return self._files("test", self._settings.test)

    @cached_property
    def _training_requests(self) -> list[SpeechRequest]:
        requests = []
        for number in range(self._settings.train):
            random = self._random("train", number)
            text = _text(_training_label(number), "train", random)
            voice = draw_voice(self._voices.train, random)
            requests.append(SpeechRequest(text, voice, _trimmed(draw_prosody(voice, random))))
        return requests

    def _training_clip(self, number: int, spoken: NDArray[np.int16]) -> NDArray[np.int16]:
        """Return a training clip; noise is added by the augmentation, except to silence."""
        random = self._random("train", number, 1)
        if _training_label(number) == SILENCE:
            return _silence(_clip_samples(self._rate, random), self._rate, random)
        return _clip(spoken, self._rate, random)

    def _files(self, part: Part, count: int) -> list[SpeechFile]:
        """Return the files of a part; voices and conditions take turns for each label."""
        voices = self._voices.validation if part == "validation" else self._voices.test
        requests = []
        for number in range(count):
            random = self._random(part, number)
            voice = voices[number // len(LABELS) % len(voices)]
            text = _text(_label(number), part, random)
            requests.append(SpeechRequest(text, voice, _trimmed(draw_test_prosody(random))))
        spoken = synthesize(requests, self._rate)
        talkers = [samples for samples in spoken if len(samples)][:40]
        # The validation part has too few clips for all combinations.
        per_condition = 1 if part == "validation" else len(LABELS) * len(voices)
        files = []
        for number, (request, samples) in enumerate(zip(requests, spoken, strict=True)):
            random, label = self._random(part, number, 1), _label(number)
            clip = _clip(samples, self._rate, random)
            condition = CONDITIONS[number // per_condition % len(CONDITIONS)]
            others = talkers if label != SILENCE else []
            content = file_in_condition(clip, self._rate, condition, others, random)
            traits = [f"condition: {condition}"]
            if label != SILENCE:
                traits += [f"voice: {request.voice}", f"engine: {request.voice.engine}"]
            name = f"{label}-{number:04d}.{'wav' if condition == 'telephone' else 'flac'}"
            files.append(SpeechFile(name, content, label, tuple(traits)))
        return files

    def _random(self, part: Part, *numbers: int) -> np.random.Generator:
        return np.random.default_rng((_SEEDS[part], self._seed, *numbers))


def _label(number: int) -> str:
    return LABELS[number % len(LABELS)]


def _training_label(number: int) -> str:
    return _TRAINING_LABELS[number % len(_TRAINING_LABELS)]


def _text(label: str, part: Part, random: np.random.Generator) -> str:
    """Draw a text for a label; the empty text for silence."""
    if label == SILENCE:
        return ""
    if label != UNKNOWN:
        return label
    others, count = unknown_words(part), 3 if random.random() < _SEVERAL else 1
    return " ".join(others[int(random.integers(len(others)))] for _ in range(count))


def _trimmed(prosody: Prosody) -> Prosody:
    """Return the prosody with hardly any silence around: a clip has its own silence."""
    return replace(prosody, lead_seconds=0.03, tail_seconds=0.06)


def _clip_samples(rate: int, random: np.random.Generator) -> int:
    return round(random.uniform(*_CLIP_SECONDS) * rate)


def _clip(spoken: NDArray[np.int16], rate: int, random: np.random.Generator) -> NDArray[np.int16]:
    """Place an utterance at a random position in a clip; cut one that is far too long.

    Slow words make longer clips.
    """
    samples = _clip_samples(rate, random)
    if len(spoken) > 1.25 * samples:
        first = int(random.integers(len(spoken) - samples))
        return spoken[first : first + samples]
    free = max(0, samples - len(spoken))
    before = int(random.integers(free + 1))
    return np.pad(spoken, (before, free - before))


def _silence(samples: int, rate: int, random: np.random.Generator) -> NDArray[np.int16]:
    """Return a clip of silence: coloured noise, sometimes with a hum, a knock or varying loudness."""
    if random.random() < _DIGITAL_SILENCE:
        return np.zeros(samples, dtype=np.int16)
    hertz = np.fft.rfftfreq(samples, 1 / rate).clip(40)
    octaves = np.log2(hertz)
    shape = np.exp2(-random.uniform(-0.3, 1.2) * octaves)
    shape *= 1 + random.uniform(0, 6) * np.exp(-((octaves - random.uniform(5, 12)) ** 2))
    noise = np.fft.irfft(np.fft.rfft(random.normal(size=samples)) * shape, samples)
    noise /= np.abs(noise).max()
    seconds = np.arange(samples) / rate
    if random.random() < 0.3:
        base = random.uniform(45, 300)
        tones = [np.sin(2 * np.pi * base * n * seconds) * random.random() / n for n in range(1, 8)]
        noise += random.uniform(0.05, 1) * np.sum(tones, axis=0)
    if random.random() < 0.3:
        knock = int(random.integers(samples))
        noise[knock:] += random.normal(size=samples - knock) * np.exp(-(seconds[: samples - knock]) / 0.02)
    if random.random() < 0.4:
        points = random.uniform(0.2, 1.8, size=6)
        noise *= np.interp(np.linspace(0, 5, samples), np.arange(6), points)
    peak = 10 ** (random.uniform(-40, -2) / 20)
    return np.asarray(noise * (peak * 32767 / np.abs(noise).max()), dtype=np.int16)
