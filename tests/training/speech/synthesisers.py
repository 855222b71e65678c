"""Voices for tests: the real programs where they are installed, and a stand-in that needs none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from training.speech.synthetic.synthesis import SpeechRequest
from training.speech.synthetic.voices import Voice

INSTALLED = (
    *[Voice("espeak", f"{accent}+{name}") for accent in ("en-gb", "en-us") for name in ("f1", "f2", "m3")],
    *[Voice("flite", "slt"), Voice("flite", "rms")],
)


def need_synthesisers() -> None:
    """Skip a test where espeak-ng or flite is missing; in CI, fail it."""
    if missing := [name for name in ("espeak-ng", "flite") if not shutil.which(name)]:
        message = f"{' and '.join(missing)} not found: apt install espeak-ng flite"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)


def hum(orders: Sequence[SpeechRequest], sample_rate: int) -> list[NDArray[np.int16]]:
    """Speak as `speak` does, but a tone of 0.05 seconds a letter."""
    sounds = []
    for order in orders:
        seconds = np.arange(round(0.05 * len(order.text) * sample_rate)) / sample_rate
        pitch = 100 + 10 * (len(str(order.voice)) % 20)
        sounds.append((20_000 * np.sin(2 * np.pi * pitch * seconds)).astype(np.int16))
    return sounds
