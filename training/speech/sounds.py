"""Sound files as the network hears them: what the service's decoder makes of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.manifest import AudioInput
from service.tasks import Limits
from service.tasks.sound import read_sound


def decoded(content: bytes, spec: AudioInput) -> NDArray[np.int16]:
    """Decode a sound file: i16 [T] at the graph's sample rate, silence behind what is too short."""
    sound = read_sound(content, spec.sample_rate, max_seconds=Limits().max_audio_seconds)
    short = int(spec.min_seconds * spec.sample_rate) - len(sound.samples)
    return np.pad(sound.samples, (0, max(0, short)))
