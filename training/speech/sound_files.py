"""Users' sound files as samples to learn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from training.errors import DataRejected


def samples_of(path: Path, sample_rate: int) -> int:
    """Tell how many samples a sound file has at most at this rate, from its header.

    Raises:
        DataRejected: There is no such file, or it is no sound, or an empty one.
    """
    if not path.is_file():
        raise DataRejected(f"there is no sound file {path}")
    try:
        about = soundfile.info(path)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise DataRejected(f"{path} cannot be read as a sound: {error}") from error
    if about.frames <= 0:
        raise DataRejected(f"{path} is an empty sound")
    return int(np.ceil(about.frames * sample_rate / about.samplerate)) + 1


def read_sound(path: Path, sample_rate: int) -> NDArray[np.int16]:
    """Read a sound file, its channels averaged, at the wanted rate: i16 [T].

    Raises:
        DataRejected: It cannot be decoded, or holds what is no number.
    """
    try:
        sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise DataRejected(f"{path} cannot be read as a sound: {error}") from error
    mono = np.asarray(soxr.resample(sound.mean(axis=1), rate, sample_rate))
    if not (mono.size and np.isfinite(mono).all()):
        raise DataRejected(f"{path} is an empty sound, or not all of it is numbers")
    return (mono.clip(-1, 1) * 32767).round().astype(np.int16)
