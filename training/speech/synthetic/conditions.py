"""The conditions of test speech: clean, noisy, telephone.

The noises are independent of those of the augmentation: test speech has noise that was not trained with.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

CONDITIONS = ("clean", "noisy", "telephone")
_NOISES = ("traffic", "rain", "fan", "people")
_SNR_DECIBELS = (5.0, 20.0)
_TELEPHONE_RATE = 8000
_PEAK_DECIBELS = (-20.0, -1.0)  # of full scale

Samples = NDArray[np.float64]


def file_in_condition(
    spoken: NDArray[np.int16],
    sample_rate: int,
    condition: str,
    talkers: Sequence[NDArray[np.int16]],
    random: np.random.Generator,
) -> bytes:
    """Return the sound file of an utterance in a condition.

    Args:
        spoken: i16 [T]; all 0 for silence, of which the file has only noise, weak if it is clean.
        sample_rate: Samples per second.
        condition: One of `CONDITIONS`.
        talkers: Other utterances, which are the background of some noisy ones.
        random: Source of all random numbers.

    Returns:
        FLAC; for the telephone a WAV of 8,000 samples per second with mu-law.
    """
    sound = spoken / 32768.0
    if not sound.any():
        return _silent_file(len(sound), sample_rate, condition, random)
    if condition == "noisy":
        noise = _noise(len(sound), sample_rate, talkers, random)
        decibels = random.uniform(*_SNR_DECIBELS)
        sound = sound + noise * (np.sqrt(_power(sound)) * 10 ** (-decibels / 20))
    if condition == "telephone":
        return _telephone_file(sound, sample_rate, random)
    return _file(_levelled(sound, random), sample_rate, "FLAC", "PCM_16")


def _silent_file(samples: int, sample_rate: int, condition: str, random: np.random.Generator) -> bytes:
    decibels = random.uniform(-45, -15) if condition == "noisy" else random.uniform(-75, -45)
    noise = _noise(samples, sample_rate, (), random) * 10 ** (decibels / 20)
    if condition == "clean" and random.random() < 0.3:
        noise *= 0
    if condition == "telephone":
        return _telephone_file(noise, sample_rate, random, levelled=False)
    return _file(noise.clip(-1, 1), sample_rate, "FLAC", "PCM_16")


def _telephone_file(
    sound: Samples, sample_rate: int, random: np.random.Generator, *, levelled: bool = True
) -> bytes:
    sound = soxr.resample(sound, sample_rate, _TELEPHONE_RATE)
    sound = _band(sound, _TELEPHONE_RATE, 300, 3400, 4)
    sound = sound + random.normal(size=len(sound)) * 10 ** (-45 / 20) * 0.1
    heard = _levelled(sound, random) if levelled else sound.clip(-1, 1)
    return _file(heard, _TELEPHONE_RATE, "WAV", "ULAW")


def _noise(
    samples: int, rate: int, talkers: Sequence[NDArray[np.int16]], random: np.random.Generator
) -> Samples:
    """Return noise of power 1: [T]."""
    kind = _NOISES[int(random.integers(len(_NOISES) if talkers else len(_NOISES) - 1))]
    if kind == "people":
        noise = _people(samples, talkers, random)
    elif kind == "traffic":
        rumble = _band(random.normal(size=samples), rate, 10, random.uniform(200, 700), 2)
        noise = rumble * _swelling(samples, rate, random)
    elif kind == "rain":
        drops = (random.random(samples) < 0.004) * random.normal(size=samples) * 12
        noise = _band(drops + random.normal(size=samples), rate, 800, 6000, 1)
    else:
        seconds, base = np.arange(samples) / rate, random.uniform(60, 180)
        tones = [np.sin(2 * np.pi * (base * n * seconds + random.random())) / n for n in range(1, 6)]
        noise = np.sum(tones, axis=0) + 3 * _band(random.normal(size=samples), rate, 10, 1200, 1)
    return np.asarray(noise / np.sqrt(_power(noise) + 1e-12))


def _people(samples: int, talkers: Sequence[NDArray[np.int16]], random: np.random.Generator) -> Samples:
    """Return five other utterances at once, each repeated."""
    heard = np.zeros(samples)
    for _ in range(5):
        talker = talkers[int(random.integers(len(talkers)))] / 32768.0
        heard += np.resize(np.roll(talker, int(random.integers(len(talker)))), samples)
    return heard


def _swelling(samples: int, rate: int, random: np.random.Generator) -> Samples:
    """Return a loudness that varies twice per second."""
    points = random.uniform(0.4, 1.6, size=2 + 2 * samples // rate)
    return np.interp(np.linspace(0, len(points) - 1, samples), np.arange(len(points)), points)


def _band(sound: Samples, rate: int, low: float, high: float, order: int) -> Samples:
    """Apply a band pass with the amplitude response of a Butterworth filter of this order."""
    hertz = np.fft.rfftfreq(len(sound), 1 / rate).clip(1e-3)
    gain = 1 / np.sqrt((1 + (low / hertz) ** (2 * order)) * (1 + (hertz / high) ** (2 * order)))
    return np.asarray(np.fft.irfft(np.fft.rfft(sound) * gain, len(sound)))


def _levelled(sound: Samples, random: np.random.Generator) -> Samples:
    peak = 10 ** (random.uniform(*_PEAK_DECIBELS) / 20)
    return np.asarray(sound * (peak / np.abs(sound).max()))


def _power(sound: Samples) -> float:
    return float(np.mean(sound**2))


def _file(sound: Samples, sample_rate: int, form: str, subtype: str) -> bytes:
    file = BytesIO()
    soundfile.write(file, sound, sample_rate, format=form, subtype=subtype)
    return file.getvalue()
