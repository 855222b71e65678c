"""Sound files as the network hears them: what the service's decoder makes of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.repository.manifest import AudioInput
from service.tasks import Limits
from service.tasks.audio.waveform import read_sound


def decoded(
    content: bytes, spec: AudioInput, max_seconds: float = Limits().max_audio_seconds
) -> NDArray[np.int16]:
    """Decode a sound file: i16 [T] at the graph's sample rate, silence behind what is too short.

    Raises:
        InvalidInput: It is damaged or no sound.
        UnsupportedMedia: It is something else.
        TooLarge: It is longer than `max_seconds`.
    """
    sound = read_sound(content, spec.sample_rate, max_seconds=max_seconds)
    short = int(spec.min_seconds * spec.sample_rate) - len(sound.samples)
    return np.pad(sound.samples, (0, max(0, short)))
