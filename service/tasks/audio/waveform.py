"""Sounds -> one channel of samples at the rate of the graph.

Sits before the queue of speech and sound tasks. What a file holds is counted while it is decoded, block by
block, so memory is bounded whatever it claims.

Letters in shapes: `T` samples of a sound.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from service.errors import InvalidInput, TooLarge
from service.tasks.audio.audio_file import DAMAGE, Stream, open_streams

LOWEST_RATE, HIGHEST_RATE = 4000, 192_000
MOST_CHANNELS = 32
_BLOCK_VALUES = 2**18  # decoded at once, over all channels: 1 MiB
_NO_SAMPLES = np.zeros(0, dtype=np.int16)
_FULL_SCALE = 32768.0  # a 16-bit sample of this size would be 1.0


@dataclass(frozen=True, slots=True)
class Sound:
    """A decoded sound.

    Attributes:
        samples: i16 [T], one channel. Sixteen bits hold what people record, in half the memory.
        sample_rate: Samples a second.
        truncated: Whether it was cut because it is too long.
    """

    samples: NDArray[np.int16]
    sample_rate: int
    truncated: bool = False

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / self.sample_rate


class SoundPart(Mapping[str, NDArray[Any]]):
    """A stretch of a sound as the graph takes it: `audio` f32 [T], -1 to 1, and `lengths` i64 [].

    Floats are made when a batch is put together, so that a queue full of speech costs half the memory.

    Args:
        samples: i16 [T].
        least: Fewer samples than this are filled up with silence.
    """

    __slots__ = ("_samples", "size")

    def __init__(self, samples: NDArray[np.int16], least: int = 0) -> None:
        self._samples = samples
        self.size = max(len(samples), least)

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name == "lengths":
            return np.array(self.size, dtype=np.int64)
        if name != "audio":
            raise KeyError(name)
        audio = np.zeros(self.size, dtype=np.float32)
        np.multiply(self._samples, np.float32(1 / _FULL_SCALE), out=audio[: len(self._samples)])
        return audio

    def release(self) -> None:
        """Let go of the samples; the part has run and is not asked for them again."""
        self._samples = _NO_SAMPLES

    def __iter__(self) -> Iterator[str]:
        return iter(("audio", "lengths"))

    def __len__(self) -> int:
        return 2


def read_sound(
    body: bytes, sample_rate: int, *, max_seconds: float, truncate: bool = False, declared_type: str = ""
) -> Sound:
    """Decode a sound file.

    Channels are averaged, then resampled; what is louder than full scale is clipped.

    Args:
        body: The file's bytes.
        sample_rate: Of the result.
        max_seconds: Longest sound that is taken.
        truncate: Whether a longer one is cut there instead of refused.
        declared_type: Media type that the client named; only used to word the refusal.

    Raises:
        InvalidInput: Empty, damaged, unrecognisable, without samples, or with some that are not finite.
        TooLarge: Longer than allowed.
        UnsupportedMedia: Recognised as something else, such as a picture or a film.
    """
    collected = _Collector(sample_rate)
    left_seconds = max_seconds
    for stream in open_streams(body, declared_type):
        _check(stream)
        collected.begin(stream.samplerate)
        most = int(left_seconds * stream.samplerate)
        read = 0
        for block in _blocks(stream):
            if read + len(block) > most:
                if not truncate:
                    raise TooLarge(
                        f"the sound is longer than {max_seconds:g} seconds, which is the limit; "
                        "truncate=true cuts it there"
                    )
                collected.add(block[: most - read])
                return Sound(collected.samples(), sample_rate, truncated=True)
            collected.add(block)
            read += len(block)
        left_seconds -= read / stream.samplerate
    if left_seconds == max_seconds:
        raise InvalidInput("the sound has no samples")
    return Sound(collected.samples(), sample_rate)


def _check(stream: Stream) -> None:
    rate, channels = stream.samplerate, stream.channels
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise InvalidInput(
            f"the sound has {rate} samples a second; from {LOWEST_RATE} to {HIGHEST_RATE} are taken"
        )
    if channels > MOST_CHANNELS:
        raise InvalidInput(f"the sound has {channels} channels; at most {MOST_CHANNELS} are taken")


def _blocks(stream: Stream) -> Iterator[NDArray[np.float32]]:
    """Decode block by block: f32 [T], the mean of the channels, within full scale."""
    channels = stream.channels
    size = max(1, _BLOCK_VALUES // channels)
    share = np.full(channels, 1 / channels, dtype=np.float32)
    read = 0
    while read < stream.frames:  # what stands behind them, such as a tag, is no sound
        try:
            block = stream.read(min(size, stream.frames - read), dtype="float32", always_2d=True)
        except DAMAGE as error:
            seconds = read / stream.samplerate
            raise InvalidInput(
                f"the sound is damaged or cut off, somewhere behind {seconds:.1f} seconds"
            ) from error
        if not len(block):
            return
        read += len(block)
        with np.errstate(over="ignore", invalid="ignore"):
            mono = block @ share if channels > 1 else block[:, 0]  # much faster than a mean
        if not np.isfinite(mono).all():
            raise InvalidInput("the sound holds samples that are not finite numbers")
        yield np.clip(mono, -1.0, 1.0)


class _Collector:
    """Resamples blocks and keeps them as 16 bits, in memory that grows without being copied twice."""

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._resampler: soxr.ResampleStream | None = None
        self._held = bytearray()

    def begin(self, rate: int) -> None:
        """Begin a stream of so many samples a second."""
        self._end()
        if rate != self._sample_rate:
            self._resampler = soxr.ResampleStream(rate, self._sample_rate, 1, dtype="float32")

    def add(self, block: NDArray[np.float32], *, last: bool = False) -> None:
        if self._resampler is not None:
            block = self._resampler.resample_chunk(block, last=last)
        scaled = np.rint(block * np.float32(_FULL_SCALE))
        self._held += np.clip(scaled, -32768, 32767).astype("<i2").tobytes()

    def samples(self) -> NDArray[np.int16]:
        self._end()
        return np.frombuffer(self._held, dtype="<i2")

    def _end(self) -> None:
        if self._resampler is not None:
            self.add(np.zeros(0, dtype=np.float32), last=True)
            self._resampler = None
