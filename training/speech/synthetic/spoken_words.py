"""Single words, other words and silence, as a source for telling sounds apart.

A clip is a word somewhere in a little more than a second. `unknown` is another word, or parts of several;
`silence` is a room, a machine, or nothing at all.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from training.recipes.speech_recipes import KeywordsRecipe, SpokenWordsData
from training.speech.dataset import SpokenFile, SpokenSet
from training.speech.synthetic.conditions import CONDITIONS, heard_file
from training.speech.synthetic.corpus import corpus_folder, spoken_corpus
from training.speech.synthetic.grammar import COMMANDS
from training.speech.synthetic.synthesis import Order, speak
from training.speech.synthetic.unknown_words import other_words
from training.speech.synthetic.voices import (
    Manner,
    cast,
    draw_held_out_manner,
    draw_manner,
    draw_voice,
    told_of,
)

SILENCE, UNKNOWN = "silence", "unknown"
LABELS = (*COMMANDS, SILENCE, UNKNOWN)
_LEARNT_LABELS = (*LABELS, UNKNOWN, UNKNOWN)  # there are more other words than words
_CLIP_SECONDS = (1.0, 1.5)
_SEVERAL = 0.2  # share of unknown clips that are cut out of several words
_NOTHING = 0.15  # share of silent clips without any sound

Part = Literal["train", "validation", "test"]
_SEEDS: dict[Part, int] = {"train": 31, "validation": 32, "test": 33}


class SpokenWords:
    """Clips of the 35 words, of other words and of silence.

    Args:
        recipe: How much, the voices, the sample rate and the seed.
        cache: Folder that what is learnt from is kept in.

    Raises:
        DataRejected: A synthesiser or a voice is missing.
    """

    def __init__(self, recipe: KeywordsRecipe, cache: Path) -> None:
        assert isinstance(recipe.data, SpokenWordsData), "a recipe without spoken words"
        self._settings, self._seed, self._cache = recipe.data, recipe.split.seed, cache
        self._rate = recipe.input.sample_rate
        self._cast = cast(recipe.data.voices)
        counts = {part: len(other_words(part)) for part in _SEEDS}
        self.description = (
            f"{len(COMMANDS)} words, other words and silence, spoken by speech synthesisers: "
            f"{self._settings.train} clips to learn from by {told_of(self._cast.train)}, "
            f"{self._settings.validation} for validation by {told_of(self._cast.validation)}, "
            f"{self._settings.test} held out by {told_of(self._cast.test)}, clean, with noise and over the "
            f"telephone; other words are {counts['train']} to learn from, {counts['validation']} for "
            f"validation and {counts['test']} that are only held out"
        )
        self.split = (
            f"by voice, seed {self._seed}; validation: {', '.join(map(str, self._cast.validation))}; "
            f"test: {', '.join(map(str, self._cast.test))}"
        )

    def training_set(self) -> SpokenSet:
        """Give what is learnt from, spoken now unless it is kept from before; texts are labels."""
        labels = [_learnt_label(number) for number in range(self._settings.train)]
        folder = corpus_folder(self._cache, "words", self._training_orders, self._rate)
        return spoken_corpus(folder, self._training_orders, labels, self._rate, self._placed)

    def validation_files(self) -> list[SpokenFile]:
        """Make the clips to stop by."""
        return self._files("validation", self._settings.validation)

    def held_out_files(self) -> list[SpokenFile]:
        """Make the test part."""
        return self._files("test", self._settings.test)

    @cached_property
    def _training_orders(self) -> list[Order]:
        orders = []
        for number in range(self._settings.train):
            random = self._random("train", number)
            text, voice = _text(_learnt_label(number), "train", random), draw_voice(self._cast.train, random)
            orders.append(Order(text, voice, _close(draw_manner(voice, random))))
        return orders

    def _placed(self, number: int, spoken: NDArray[np.int16]) -> NDArray[np.int16]:
        """Make a clip to learn from; noise comes when it is learnt from, but to silence."""
        random = self._random("train", number, 1)
        if _learnt_label(number) == SILENCE:
            return _room(_clip_samples(self._rate, random), self._rate, random)
        return _clip(spoken, self._rate, random)

    def _files(self, part: Part, count: int) -> list[SpokenFile]:
        """Make a held-out part: voices and conditions take turns for each label."""
        voices = self._cast.validation if part == "validation" else self._cast.test
        orders = []
        for number in range(count):
            random = self._random(part, number)
            voice = voices[number // len(LABELS) % len(voices)]
            text = _text(_label(number), part, random)
            orders.append(Order(text, voice, _close(draw_held_out_manner(random))))
        spoken = speak(orders, self._rate)
        talkers = [samples for samples in spoken if len(samples)][:40]
        return [
            self._file(part, number, order, samples, talkers)
            for number, (order, samples) in enumerate(zip(orders, spoken, strict=True))
        ]

    def _file(
        self,
        part: Part,
        number: int,
        order: Order,
        spoken: NDArray[np.int16],
        talkers: list[NDArray[np.int16]],
    ) -> SpokenFile:
        random, label = self._random(part, number, 1), _label(number)
        clip = _clip(spoken, self._rate, random)
        voices = self._cast.validation if part == "validation" else self._cast.test
        condition = CONDITIONS[number // len(LABELS) // len(voices) % len(CONDITIONS)]
        if part == "validation":  # too few clips for all turns
            condition = CONDITIONS[number % len(CONDITIONS)]
        content = heard_file(clip, self._rate, condition, talkers if label != SILENCE else [], random)
        traits = [f"condition: {condition}"]
        if label != SILENCE:
            traits += [f"voice: {order.voice}", f"engine: {order.voice.engine}"]
        name = f"{label}-{number:04d}.{'wav' if condition == 'telephone' else 'flac'}"
        return SpokenFile(name, content, label, tuple(traits))

    def _random(self, part: Part, *numbers: int) -> np.random.Generator:
        return np.random.default_rng((_SEEDS[part], self._seed, *numbers))


def _label(number: int) -> str:
    return LABELS[number % len(LABELS)]


def _learnt_label(number: int) -> str:
    return _LEARNT_LABELS[number % len(_LEARNT_LABELS)]


def _text(label: str, part: Part, random: np.random.Generator) -> str:
    """Draw what is said for a label; nothing for silence."""
    if label == SILENCE:
        return ""
    if label != UNKNOWN:
        return label
    others, count = other_words(part), 3 if random.random() < _SEVERAL else 1
    return " ".join(others[int(random.integers(len(others)))] for _ in range(count))


def _close(manner: Manner) -> Manner:
    """Cut closely to what is said: a clip has its own silence."""
    return Manner(manner.speed, manner.pitch, manner.shift, manner.gap, 0.03, 0.06)


def _clip_samples(rate: int, random: np.random.Generator) -> int:
    return round(random.uniform(*_CLIP_SECONDS) * rate)


def _clip(spoken: NDArray[np.int16], rate: int, random: np.random.Generator) -> NDArray[np.int16]:
    """Put what was said somewhere in a clip; of what is far too long, take a part.

    Slow words make longer clips.
    """
    samples = _clip_samples(rate, random)
    if len(spoken) > 1.25 * samples:
        first = int(random.integers(len(spoken) - samples))
        return spoken[first : first + samples]
    free = max(0, samples - len(spoken))
    before = int(random.integers(free + 1))
    return np.pad(spoken, (before, free - before))


def _room(samples: int, rate: int, random: np.random.Generator) -> NDArray[np.int16]:
    """Make a silent clip to learn from: coloured noise, at times with a hum, knocks or swelling."""
    if random.random() < _NOTHING:
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
