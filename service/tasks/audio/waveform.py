"""Audio files -> one channel of samples at the graph's sample rate.

Samples are counted while a file is decoded, block by block. So memory is bounded whatever length the header
claims.

Array shapes: `T` samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from service.errors import InvalidInput, TooLarge
from service.tasks.audio.audio_file import DECODE_ERRORS, AudioStream, open_streams

_MIN_SAMPLE_RATE, _MAX_SAMPLE_RATE = 4000, 192_000
_MAX_CHANNELS = 32
_BLOCK_VALUES = 2**18  # samples of all channels decoded at once: 1 MiB
_FULL_SCALE = 32768.0  # the 16-bit value that corresponds to 1.0


@dataclass(frozen=True, slots=True)
class Waveform:
    """A decoded recording.

    Attributes:
        samples: i16 [T], one channel; 16 bits take half the memory of f32.
        sample_rate: Samples per second.
        truncated: Whether the recording was cut because it is too long.
    """

    samples: NDArray[np.int16]
    sample_rate: int
    truncated: bool = False

    @property
    def seconds(self) -> float:
        """The duration."""
        return len(self.samples) / self.sample_rate


class AudioSegment(Mapping[str, NDArray[Any]]):
    """A part of a recording as the graph's inputs: `audio` f32 [T], -1 to 1, and `lengths` i64 [].

    Samples become floats only when a batch is built, so the queue takes half the memory.

    Args:
        samples: i16 [T].
        min_size: A shorter segment is padded with silence to this many samples.
    """

    __slots__ = ("_samples", "size")

    def __init__(self, samples: NDArray[np.int16], min_size: int = 0) -> None:
        self._samples = samples
        self.size = max(len(samples), min_size)

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name == "lengths":
            return np.array(self.size, dtype=np.int64)
        if name != "audio":
            raise KeyError(name)
        audio = np.zeros(self.size, dtype=np.float32)
        np.multiply(self._samples, np.float32(1 / _FULL_SCALE), out=audio[: len(self._samples)])
        return audio

    def __iter__(self) -> Iterator[str]:
        return iter(("audio", "lengths"))

    def __len__(self) -> int:
        return 2


def decode_audio(
    body: bytes, sample_rate: int, *, max_seconds: float, truncate: bool = False, declared_type: str = ""
) -> Waveform:
    """Return the waveform of an audio file.

    Channels are averaged and resampled. Samples beyond full scale are clipped.

    Args:
        body: The file's bytes.
        sample_rate: Samples per second of the result.
        max_seconds: Longest recording that is accepted.
        truncate: Whether a longer recording is cut instead of refused.
        declared_type: Media type that the client sent; used only in error messages.

    Raises:
        InvalidInput: The file is empty, damaged or of an unknown format, has no samples, or has samples that
            are not finite numbers.
        TooLarge: The recording is longer than allowed.
        UnsupportedMedia: The file is of another known format, such as an image or a video.
    """
    resampler = _Resampler(sample_rate)
    left_seconds = max_seconds
    for stream in open_streams(body, declared_type):
        _check(stream)
        resampler.begin_stream(stream.samplerate)
        max_samples = int(left_seconds * stream.samplerate)
        read = 0
        for block in _blocks(stream):
            if read + len(block) > max_samples:
                if not truncate:
                    raise TooLarge(
                        f"the audio is longer than {max_seconds:g} seconds, which is the limit; "
                        "truncate=true cuts it there"
                    )
                resampler.add(block[: max_samples - read])
                return Waveform(resampler.finish(), sample_rate, truncated=True)
            resampler.add(block)
            read += len(block)
        left_seconds -= read / stream.samplerate
    if left_seconds == max_seconds:
        raise InvalidInput("the audio has no samples")
    return Waveform(resampler.finish(), sample_rate)


def _check(stream: AudioStream) -> None:
    rate, channels = stream.samplerate, stream.channels
    if not _MIN_SAMPLE_RATE <= rate <= _MAX_SAMPLE_RATE:
        raise InvalidInput(
            f"the audio has {rate} samples per second; allowed are {_MIN_SAMPLE_RATE} to {_MAX_SAMPLE_RATE}"
        )
    if channels > _MAX_CHANNELS:
        raise InvalidInput(f"the audio has {channels} channels; at most {_MAX_CHANNELS} are allowed")


def _blocks(stream: AudioStream) -> Iterator[NDArray[np.float32]]:
    """Decode block by block; yield f32 [T], the mean of the channels, clipped to full scale."""
    channels = stream.channels
    size = max(1, _BLOCK_VALUES // channels)
    weights = np.full(channels, 1 / channels, dtype=np.float32)
    read = 0
    while read < stream.frames:  # bytes after the frames, such as a tag, are not audio
        try:
            block = stream.read(min(size, stream.frames - read), dtype="float32", always_2d=True)
        except DECODE_ERRORS as error:
            seconds = read / stream.samplerate
            raise InvalidInput(
                f"the audio is damaged or cut off, somewhere after {seconds:.1f} seconds"
            ) from error
        if not len(block):
            return
        read += len(block)
        with np.errstate(over="ignore", invalid="ignore"):
            mono = block @ weights if channels > 1 else block[:, 0]  # much faster than `mean`
        if not np.isfinite(mono).all():
            raise InvalidInput("the audio has samples that are not finite numbers")
        yield np.clip(mono, -1.0, 1.0)


class _Resampler:
    """Resamples blocks and stores them as 16-bit samples.

    A `bytearray` grows in place, so the samples are in memory only once.
    """

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._resampler: soxr.ResampleStream | None = None
        self._samples = bytearray()

    def begin_stream(self, rate: int) -> None:
        """Expect blocks of a new stream, with this sample rate."""
        self._end_stream()
        if rate != self._sample_rate:
            self._resampler = soxr.ResampleStream(rate, self._sample_rate, 1, dtype="float32")

    def add(self, block: NDArray[np.float32], *, last: bool = False) -> None:
        if self._resampler is not None:
            block = self._resampler.resample_chunk(block, last=last)
        scaled = np.rint(block * np.float32(_FULL_SCALE))
        self._samples += np.clip(scaled, -32768, 32767).astype("<i2").tobytes()

    def finish(self) -> NDArray[np.int16]:
        self._end_stream()
        return np.frombuffer(self._samples, dtype="<i2")

    def _end_stream(self) -> None:
        if self._resampler is not None:
            self.add(np.zeros(0, dtype=np.float32), last=True)
            self._resampler = None
