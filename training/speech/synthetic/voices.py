"""Synthetic voices: which are installed, which part each speaks in, and with which prosody.

eSpeak NG combines any accent with any variant of the voice; flite and festival have voices of a few people. A
speaker, which is a variant or a person, speaks in one part only.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.errors import DataRejected
from training.recipes.speech_recipe import SpokenVoices

ACCENTS = (
    *["en-gb", "en-us", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029"],
    "en-us-nyc",
)
# Variants that are hardly intelligible, or whose names do not work in a command.
_LEFT_OUT = {"whisper", "whisperf", "Demonic", "croak", "UniRobot", "Tweaky", "fast", "Mr"}
_SAME_PERSON = {"anxiousandy": "andy", "anikarobot": "anika"}
FESTIVAL_VOICES = {"kal": "kal_diphone", "ked": "ked_diphone", "slt": "cmu_us_slt_arctic_hts"}
_FLITE_VOICES = ("slt", "awb", "rms", "kal16")
_ESPEAK_SHARE = 0.6


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice of a synthesizer: `espeak:en-us+f4`, `flite:rms`, `festival:ked`."""

    engine: str
    name: str

    def __str__(self) -> str:
        """Return the name in recipes."""
        return f"{self.engine}:{self.name}"

    @property
    def speaker(self) -> str:
        """The speaker: numbered voices of one name are one speaker, except eSpeak's f1 and m1."""
        if self.engine != "espeak":
            return self.name.rstrip("0123456789")
        variant = self.name.partition("+")[2].lower()
        if not re.fullmatch(r"[fm]\d", variant):
            variant = variant.rstrip("0123456789")
        return f"espeak {_SAME_PERSON.get(variant, variant)}"


@dataclass(frozen=True, slots=True)
class Prosody:
    """How a sentence is spoken.

    Attributes:
        speed: Relative to the voice's own speed.
        pitch: -1 to 1, where 0 is the voice's own pitch.
        shift: Common factor of speed and pitch, as of a smaller or larger speaker.
        gap: Further pause between eSpeak's words, in hundredths of a second.
        lead_seconds: Silence before.
        tail_seconds: Silence after.
    """

    speed: float = 1.0
    pitch: float = 0.0
    shift: float = 1.0
    gap: int = 0
    lead_seconds: float = 0.2
    tail_seconds: float = 0.2


@dataclass(frozen=True, slots=True)
class VoiceSplit:
    """The voices of each part."""

    train: tuple[Voice, ...]
    validation: tuple[Voice, ...]
    test: tuple[Voice, ...]


def split_voices(voices: SpokenVoices) -> VoiceSplit:
    """Divide this machine's voices as a recipe names them.

    Voices of festival that are not installed are left out; all others must be installed.

    Raises:
        DataRejected: A named voice is missing, or its speaker is in two parts.
    """
    installed = installed_voices()
    validation, test = (_named(names, installed) for names in (voices.validation, voices.test))
    if both := {voice.speaker for voice in validation} & {voice.speaker for voice in test}:
        raise DataRejected(f"{min(both)} is named for validation and for the test")
    held_out = {voice.speaker for voice in (*validation, *test)}
    return VoiceSplit(tuple(voice for voice in installed if voice.speaker not in held_out), validation, test)


def installed_voices() -> tuple[Voice, ...]:
    """Return the voices of this machine.

    Raises:
        DataRejected: eSpeak NG or flite is missing.
    """
    if missing := [name for name in ("espeak-ng", "flite") if not shutil.which(name)]:
        raise DataRejected(f"{' and '.join(missing)} not found: apt install espeak-ng flite")
    espeak = [Voice("espeak", f"{accent}+{variant}") for accent in ACCENTS for variant in _variants()]
    flite = [Voice("flite", name) for name in _FLITE_VOICES]
    return (*espeak, *flite, *(Voice("festival", name) for name in _festival_voices()))


def draw_voice(voices: Sequence[Voice], random: np.random.Generator) -> Voice:
    """Draw a voice: mostly one of eSpeak's, else each recorded speaker equally often."""
    made = [voice for voice in voices if voice.engine == "espeak"]
    recorded: dict[str, list[Voice]] = {}
    for voice in voices:
        if voice.engine != "espeak":
            recorded.setdefault(voice.speaker, []).append(voice)
    if made and (not recorded or random.random() < _ESPEAK_SHARE):
        return made[int(random.integers(len(made)))]
    speaker = sorted(recorded)[int(random.integers(len(recorded)))]
    return recorded[speaker][int(random.integers(len(recorded[speaker])))]


def draw_prosody(voice: Voice, random: np.random.Generator) -> Prosody:
    """Draw a prosody for training from wide ranges; recorded speakers are shifted to sound like others."""
    return Prosody(
        speed=round(float(random.uniform(0.63, 1.32)), 3),
        pitch=round(float(random.uniform(-1, 1)), 3),
        shift=1.0 if voice.engine == "espeak" else round(float(random.uniform(0.85, 1.18)), 3),
        gap=int(random.integers(0, 4)) if random.random() < 0.4 else 0,
        lead_seconds=round(float(random.uniform(0, 0.4)), 3),
        tail_seconds=round(float(random.uniform(0, 0.4)), 3),
    )


def draw_test_prosody(random: np.random.Generator) -> Prosody:
    """Draw a prosody for evaluation, from the range of ordinary speech."""
    return Prosody(
        speed=round(float(random.uniform(0.75, 1.2)), 3),
        pitch=round(float(random.uniform(-0.6, 0.6)), 3),
        gap=int(random.integers(0, 3)) if random.random() < 0.3 else 0,
        lead_seconds=round(float(random.uniform(0.05, 0.4)), 3),
        tail_seconds=round(float(random.uniform(0.05, 0.4)), 3),
    )


def _variants() -> list[str]:
    listed = _output("espeak-ng", "--voices=variant")
    found = re.findall(r"!v/(\S+)", listed)
    return sorted(set(found) - _LEFT_OUT)


def _festival_voices() -> list[str]:
    if not shutil.which("festival"):
        return []
    listed = _output("festival", "-b", "(print (voice.list))")
    return [name for name, module in FESTIVAL_VOICES.items() if re.search(rf"\b{module}\b", listed)]


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _named(names: Sequence[str], installed: Sequence[Voice]) -> tuple[Voice, ...]:
    there = {str(voice): voice for voice in installed}
    for name in names:
        if name not in there and name not in {f"festival:{voice}" for voice in FESTIVAL_VOICES}:
            raise DataRejected(f"there is no voice {name} on this machine")
    chosen = tuple(there[name] for name in names if name in there)
    if not chosen:
        raise DataRejected(f"none of the voices {', '.join(names)} is on this machine")
    return chosen


def describe_voices(voices: Sequence[Voice]) -> str:
    """Return a short description of voices."""
    made = {voice.speaker for voice in voices if voice.engine == "espeak"}
    recorded = sorted({voice.speaker for voice in voices if voice.engine != "espeak"})
    parts = [f"{len(made)} variants of eSpeak NG"] if made else []
    return " and ".join([*parts, *([f"the recorded {', '.join(recorded)}"] if recorded else [])])
