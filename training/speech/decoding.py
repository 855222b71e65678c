"""Decode sound files with the service's decoder."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.repository.manifest import AudioInput
from service.tasks import Limits
from service.tasks.audio.waveform import decode_audio


def decode_sound(
    content: bytes, spec: AudioInput, max_seconds: float = Limits().max_audio_seconds
) -> NDArray[np.int16]:
    """Return a sound's samples, i16 [T] at the graph's rate, padded with silence if it is too short.

    Raises:
        InvalidInput: The file is damaged or has no sound.
        UnsupportedMedia: It is no sound file.
        TooLarge: It is longer than `max_seconds`.
    """
    sound = decode_audio(content, spec.sample_rate, max_seconds=max_seconds)
    short = int(spec.min_seconds * spec.sample_rate) - len(sound.samples)
    return np.pad(sound.samples, (0, max(0, short)))
