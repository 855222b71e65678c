"""Sound files: WAV, FLAC, Ogg or MP3 -> one channel of samples at the rate of the graph.

Sits before the queue of speech and sound tasks. The header's word for the length is never taken: what a
file holds is counted while it is decoded, block by block, so memory is bounded whatever it claims.

Letters in shapes: `T` samples of a sound.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import filetype
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from service.errors import InvalidInput, TooLarge, UnsupportedMedia

LOWEST_RATE, HIGHEST_RATE = 4000, 192_000
MOST_CHANNELS = 32
_FORMATS_TEXT = "WAV, FLAC, Ogg (Vorbis, Opus) or MP3"
_OUR_MEDIA_TYPES = ("audio/x-wav", "audio/wav", "audio/x-flac", "audio/flac", "audio/ogg", "audio/mpeg")
_SNIFFED_BYTES = 262  # what `filetype` looks at
_BLOCK_VALUES = 2**18  # decoded at once, over all channels: 1 MiB
_NO_SAMPLES = np.zeros(0, dtype=np.int16)
_FULL_SCALE = 32768.0  # a 16-bit sample of this size would be 1.0

# What the decoder's wrapper raises on damaged files.
_DAMAGE = (soundfile.SoundFileError, RuntimeError, ValueError, TypeError, OSError, MemoryError)


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
    if not body:
        raise InvalidInput(f"the sound is empty; send the bytes of a {_FORMATS_TEXT} file")
    if not _is_ours(body):
        raise _unidentified(body, declared_type)
    try:
        file = soundfile.SoundFile(BytesIO(_honest(body)))
    except _DAMAGE as error:
        raise InvalidInput(f"the sound is damaged: its header is not that of {_FORMATS_TEXT}") from error
    with file:
        return _read(file, sample_rate, max_seconds, truncate)


def claimed_seconds(body: bytes) -> float:
    """Tell how long a sound file says that it is; 0 where it says nothing sensible. Decodes nothing."""
    if not _is_ours(body):
        return 0.0
    try:
        with soundfile.SoundFile(BytesIO(_honest(body))) as file:
            return max(0.0, int(file.frames) / max(1, int(file.samplerate)))
    except _DAMAGE:
        return 0.0


def _read(file: soundfile.SoundFile, sample_rate: int, max_seconds: float, truncate: bool) -> Sound:
    rate, channels = file.samplerate, file.channels
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise InvalidInput(
            f"the sound has {rate} samples a second; from {LOWEST_RATE} to {HIGHEST_RATE} are taken"
        )
    if channels > MOST_CHANNELS:
        raise InvalidInput(f"the sound has {channels} channels; at most {MOST_CHANNELS} are taken")
    most = int(max_seconds * rate)
    collected = _Collector(rate, sample_rate)
    read = 0
    for block in _blocks(file):
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
    if not read:
        raise InvalidInput("the sound has no samples")
    return Sound(collected.samples(), sample_rate)


def _blocks(file: soundfile.SoundFile) -> Iterator[NDArray[np.float32]]:
    """Decode block by block: f32 [T], the mean of the channels, within full scale."""
    size = max(1, _BLOCK_VALUES // file.channels)
    share = np.full(file.channels, 1 / file.channels, dtype=np.float32)
    read = 0
    while True:
        try:
            block = file.read(size, dtype="float32", always_2d=True)
        except _DAMAGE as error:
            raise InvalidInput(f"the sound is damaged after {read / file.samplerate:.1f} seconds") from error
        if not len(block):
            return
        read += len(block)
        with np.errstate(over="ignore", invalid="ignore"):
            mono = block @ share if file.channels > 1 else block[:, 0]  # much faster than a mean
        if not np.isfinite(mono).all():
            raise InvalidInput("the sound holds samples that are not finite numbers")
        yield np.clip(mono, -1.0, 1.0)


class _Collector:
    """Resamples blocks and keeps them as 16 bits, in memory that grows without being copied twice."""

    def __init__(self, rate: int, sample_rate: int) -> None:
        same = rate == sample_rate
        self._resampler = None if same else soxr.ResampleStream(rate, sample_rate, 1, dtype="float32")
        self._held = bytearray()

    def add(self, block: NDArray[np.float32], *, last: bool = False) -> None:
        if self._resampler is not None:
            block = self._resampler.resample_chunk(block, last=last)
        scaled = np.rint(block * np.float32(_FULL_SCALE))
        self._held += np.clip(scaled, -32768, 32767).astype("<i2").tobytes()

    def samples(self) -> NDArray[np.int16]:
        if self._resampler is not None:
            self.add(np.zeros(0, dtype=np.float32), last=True)
        return np.frombuffer(self._held, dtype="<i2")


def _is_ours(body: bytes) -> bool:
    """Recognise the four formats, so that the decoder's many others are never tried."""
    if body[:4] in (b"RIFF", b"RIFX", b"RF64"):
        return body[8:12] == b"WAVE"
    if body[:4] in (b"fLaC", b"OggS") or body[:3] == b"ID3":
        return True
    # An MPEG audio frame: eleven bits of sync, then a version and a layer that exist.
    return len(body) > 2 and body[0] == 0xFF and body[1] & 0xE0 == 0xE0 and bool(body[1] & 0x06)


def _honest(body: bytes) -> bytes:
    """Mend a WAV that says it has less sound than it has, as recorders leave that were never stopped.

    What follows the samples must begin as a chunk does; where it does not, it is sound. One that says it has
    more needs no mending: the decoder sees where the file ends.
    """
    if body[:4] != b"RIFF":
        return body
    at = 12
    while at + 8 <= len(body):
        name, size = struct.unpack_from("<4sI", body, at)
        behind = at + 8 + size + size % 2
        if name == b"data":
            rest = len(body) - at - 8
            if behind >= len(body) or _is_chunk(body, behind):
                return body
            return b"".join((body[: at + 4], struct.pack("<I", rest), memoryview(body)[at + 8 :]))
        at = behind
    return body


def _is_chunk(body: bytes, at: int) -> bool:
    name, size = body[at : at + 4], body[at + 4 : at + 8]
    if len(size) < 4:  # a few bytes of padding
        return True
    printable = all(0x20 <= letter < 0x7F for letter in name)
    return printable and at + 8 + int.from_bytes(size, "little") <= len(body) + 1


def _unidentified(body: bytes, declared_type: str) -> InvalidInput | UnsupportedMedia:
    found = filetype.guess_mime(body[:_SNIFFED_BYTES])
    if found in _OUR_MEDIA_TYPES:
        return InvalidInput(f"the sound is damaged: it ends within the header of {found}")
    if found or (declared_type and not declared_type.startswith("audio/")):
        return UnsupportedMedia(f"{found or declared_type} is not decoded here; send a {_FORMATS_TEXT} file")
    return InvalidInput(f"the bytes are not a sound that we know; send a {_FORMATS_TEXT} file")
