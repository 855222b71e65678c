"""Augmentation of utterances, a whole padded batch at once.

Speed, silence, room, noise, microphone, telephone, loudness. All linear steps are one product of spectra, so
a batch needs one Fourier transform and one inverse, which is cheap beside the network.

Letters in shapes: `N` utterances, `T` samples, `B` frequencies, `F` frames, `M` mel bands.
"""

from __future__ import annotations

import math

import torch

_SPEEDS = (0.88, 1.14)
_SNR_DECIBELS = (0.0, 30.0)
_ROOM_SECONDS = 0.6  # of an impulse response that is kept
_STEP = 4096  # transform lengths are multiples of this, which is fast
_TELEPHONE = (300.0, 3400.0)
_MU = 255.0

Tensor = torch.Tensor


def augment(
    audio: Tensor, lengths: Tensor, generator: torch.Generator, sample_rate: int = 16_000
) -> tuple[Tensor, Tensor]:
    """Augment a batch of utterances.

    Args:
        audio: f32 [N, T], -1 to 1, zeros beyond each length.
        lengths: i64 [N], in samples.
        generator: Source of all random numbers.
        sample_rate: Samples per second.

    Returns:
        f32 [N, T'] and i64 [N]: speed and added silence change the lengths.
    """
    audio, lengths = change_speed(audio, lengths, generator, sample_rate)
    samples = audio.shape[1]
    size = -(-(samples + round(_ROOM_SECONDS * sample_rate)) // _STEP) * _STEP
    spectrum = torch.fft.rfft(audio, size)
    heard = spectrum * _rooms(len(audio), size, generator, sample_rate)
    heard += _noise(spectrum, heard, generator, sample_rate)
    telephone = _chosen(len(audio), 0.2, generator)
    heard *= _microphones(spectrum, telephone, generator, sample_rate)
    sound = torch.fft.irfft(heard, size)[:, :samples]
    sound = _at_loudness(sound, generator)
    sound[telephone] = _companded(sound[telephone])
    return sound * (torch.arange(samples) < lengths[:, None]), lengths


def mask_features(features: Tensor, frames: Tensor, generator: torch.Generator) -> Tensor:
    """Mask bands and spans of time, as SpecAugment does (Park et al. 2019, arXiv:1904.08779).

    Args:
        features: f32 [N, F, M] log-mels.
        frames: i64 [N], frames that are not padding.
        generator: Source of all random numbers.

    Returns:
        f32 [N, F, M], where masked values are their utterance's mean.
    """
    count, times, bands = features.shape
    hidden = torch.zeros(count, times, bands, dtype=torch.bool)
    for _ in range(2):
        wide = _uniform(count, 0, bands * 0.2, generator)
        first = _uniform(count, 0, 1, generator) * (bands - wide)
        hidden |= _between(bands, first, first + wide)[:, None, :]
        long = torch.minimum(_uniform(count, 0, 30, generator), frames * 0.12)
        first = _uniform(count, 0, 1, generator) * (frames - long)
        hidden |= _between(times, first, first + long)[:, :, None]
    there = (torch.arange(times) < frames[:, None])[:, :, None]
    mean = (features * there).sum((1, 2), keepdim=True) / (frames[:, None, None] * bands).clamp(min=1)
    return torch.where(hidden & there, mean, features)


def change_speed(
    audio: Tensor, lengths: Tensor, generator: torch.Generator, sample_rate: int
) -> tuple[Tensor, Tensor]:
    """Resample utterances, which changes speed and pitch; add silence before and after some.

    A batch has one speed, from which each utterance differs a little: so lengths stay similar.
    """
    count, samples = audio.shape
    speeds = _uniform(1, *_SPEEDS, generator) * _uniform(count, 0.96, 1.04, generator)
    lead, tail = (
        _uniform(count, 0, 0.15 * sample_rate, generator) * _chosen(count, 0.3, generator) for _ in range(2)
    )
    lead = lead.round()
    spoken = torch.floor(lengths / speeds)
    changed = (lead + spoken + tail.round()).long()
    place = (torch.arange(int(changed.max())) - lead[:, None]) * speeds[:, None]
    before = place.floor()
    after = place - before
    left = before.long()
    there = (left >= 0) & (left < lengths[:, None])
    left = left.clamp(0, samples - 1)
    sound = torch.lerp(audio.gather(1, left), audio.gather(1, (left + 1).clamp(max=samples - 1)), after)
    return sound * there, changed


def _rooms(count: int, size: int, generator: torch.Generator, sample_rate: int) -> Tensor:
    """Draw room responses as spectra: c64 [N, B], 1 without a room.

    A room is the direct sound, a few early reflections, and decaying noise.
    """
    reverberant = _chosen(count, 0.35, generator)
    rooms = int(reverberant.sum())
    spectra = torch.ones(count, size // 2 + 1, dtype=torch.complex64)
    if rooms:
        samples = round(_ROOM_SECONDS * sample_rate)
        seconds = torch.arange(samples) / sample_rate
        fall = 6.9 / _uniform(rooms, 0.12, 0.9, generator)  # to a thousandth within so many seconds
        tail = torch.randn(rooms, samples, generator=generator) * torch.exp(-seconds * fall[:, None])
        early = torch.zeros(rooms, samples)
        places = torch.randint(16, round(0.06 * sample_rate), (rooms, 6), generator=generator)
        early.scatter_(1, places, torch.randn(rooms, 6, generator=generator) * 0.4)
        level = 10 ** (-_uniform(rooms, -2, 16, generator) / 20)
        response = early + tail / tail.square().sum(1, keepdim=True).sqrt()
        response *= level[:, None]
        response[:, 0] = 1
        spectra[reverberant] = torch.fft.rfft(response, size)
    return spectra


def _noise(clean: Tensor, heard: Tensor, generator: torch.Generator, sample_rate: int) -> Tensor:
    """Draw noise for about two of three utterances, c64 [N, B], at a random signal-to-noise ratio."""
    count, bins = clean.shape
    noisy = _chosen(count, 0.62, generator).nonzero()[:, 0]
    noise = torch.zeros_like(clean)
    if not len(noisy):
        return noise
    kinds = torch.rand(len(noisy), generator=generator)
    made = _coloured(len(noisy), bins, generator, sample_rate)
    babble = kinds < 0.25
    made[babble] = _babble(clean, int(babble.sum()), generator) + 0.3 * made[babble]
    humming = (kinds > 0.25) & (kinds < 0.4)
    made[humming] += _hum(int(humming.sum()), bins, generator, sample_rate)
    clicking = kinds > 0.88
    if clicking.any():  # a transform of an empty tensor is an error
        made[clicking] += _clicks(int(clicking.sum()), bins, generator)
    ratio = 10 ** (-_uniform(len(noisy), *_SNR_DECIBELS, generator) / 20)
    scale = ratio * _loudness(heard[noisy]) / _loudness(made).clamp(min=1e-9)
    noise[noisy] = made * scale[:, None]
    return noise


def _coloured(count: int, bins: int, generator: torch.Generator, sample_rate: int) -> Tensor:
    """Return noise whose power falls or rises with frequency, with one broad peak: c64, loudness 1."""
    hertz = torch.linspace(0, sample_rate / 2, bins).clamp(min=40)
    steep = _uniform(count, -0.3, 1.2, generator)[:, None]
    centre = _uniform(count, 5, 9, generator)[:, None]
    octaves = torch.log2(hertz)[None]
    shape = torch.exp2(-steep * octaves)
    shape *= 1 + 3 * torch.rand(count, 1, generator=generator) * torch.exp(-((octaves - centre) ** 2))
    gauss = torch.view_as_complex(torch.randn(count, bins, 2, generator=generator))
    made = gauss * shape
    return made / _loudness(made)[:, None]


def _babble(clean: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return the sum of three to six other utterances of the batch: c64, loudness about 1."""
    made = torch.zeros(count, clean.shape[1], dtype=clean.dtype)
    for number in range(6):
        others = clean[torch.randint(len(clean), (count,), generator=generator)]
        talking = 1.0 if number < 3 else _chosen(count, 0.5, generator).float()[:, None]
        made += others / _loudness(others).clamp(min=1e-9)[:, None] * talking
    return made


def _hum(count: int, bins: int, generator: torch.Generator, sample_rate: int) -> Tensor:
    """Return mains or motor hum, a low tone with weaker overtones: c64, loudness about 1."""
    made = torch.zeros(count, bins, dtype=torch.complex64)
    base = _uniform(count, 45, 220, generator) / (sample_rate / 2) * (bins - 1)
    for overtone in range(1, 9):
        place = (base * overtone).round().long().clamp(max=bins - 1)[:, None]
        height = torch.rand(count, 1, generator=generator) / overtone
        made.scatter_(1, place, height.to(torch.complex64) * (bins / math.sqrt(2)))
    return made


def _clicks(count: int, bins: int, generator: torch.Generator) -> Tensor:
    """Return short clicks at random times: c64, loudness about 1."""
    size = (bins - 1) * 2
    train = torch.zeros(count, size)
    places = torch.randint(size, (count, 12), generator=generator)
    train.scatter_(1, places, torch.randn(count, 12, generator=generator))
    made: Tensor = torch.fft.rfft(train)
    return made / _loudness(made).clamp(min=1e-9)[:, None]


def _microphones(spectrum: Tensor, telephone: Tensor, generator: torch.Generator, sample_rate: int) -> Tensor:
    """Draw frequency responses of microphones and lines: f32 [N, B]."""
    count, bins = spectrum.shape
    hertz = torch.linspace(0, sample_rate / 2, bins)[None]
    octaves = torch.log2(hertz.clamp(min=60) / 1000)
    tilt = _uniform(count, -3, 3, generator)[:, None]  # decibels an octave
    gain = 10 ** (tilt * _chosen(count, 0.4, generator)[:, None] * octaves / 20)
    low = torch.where(_chosen(count, 0.3, generator), _uniform(count, 50, 250, generator), 1.0)
    top = torch.where(_chosen(count, 0.25, generator), _uniform(count, 3500, 7500, generator), sample_rate)
    low, top = torch.where(telephone, _TELEPHONE[0], low), torch.where(telephone, _TELEPHONE[1], top)
    return gain * torch.sigmoid((hertz - low[:, None]) / 25) * torch.sigmoid((top[:, None] - hertz) / 60)


def _at_loudness(sound: Tensor, generator: torch.Generator) -> Tensor:
    """Scale each utterance to a random peak between -28 and 0 dBFS; some clip, others are faint."""
    count = len(sound)
    decibels = _uniform(count, -28, 0, generator)
    decibels += _chosen(count, 0.07, generator) * _uniform(count, 3, 14, generator)
    decibels -= _chosen(count, 0.07, generator) * _uniform(count, 5, 30, generator)
    peaks = sound.abs().amax(1).clamp(min=1e-6)
    return (sound * (10 ** (decibels / 20) / peaks)[:, None]).clamp(-1, 1)


def _companded(sound: Tensor) -> Tensor:
    """Round to 8 bits of mu-law (ITU-T G.711)."""
    pressed = torch.log1p(_MU * sound.abs()) / math.log1p(_MU)
    opened = torch.expm1(torch.round(pressed * 127) / 127 * math.log1p(_MU)) / _MU
    return torch.sign(sound) * opened


def _loudness(spectrum: Tensor) -> Tensor:
    """Return the root mean square of spectra c64 [N, B], up to a common factor: f32 [N]."""
    return torch.view_as_real(spectrum).square().mean((1, 2)).sqrt()


def _between(count: int, first: Tensor, last: Tensor) -> Tensor:
    """Return the mask of the numbers from `first` to below `last`: bool [N, count]."""
    numbers = torch.arange(count)
    return (numbers >= first.floor()[:, None]) & (numbers < last.floor()[:, None])


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def _chosen(count: int, share: float, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) < share
