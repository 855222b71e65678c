"""Audio files, opened with libsndfile: WAV, FLAC, Ogg and MP3 -> streams of samples.

libsndfile trusts the length in a file's header, which is often wrong. Headers are repaired here, so that the
decoder reads to the end of the file. This module rejects bad files and writes the error messages that clients
read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import closing
from io import SEEK_END, SEEK_SET, BytesIO

import filetype
import soundfile

from service.errors import InvalidInput, UnsupportedMedia

FORMATS_TEXT = "WAV, FLAC, Ogg (Vorbis, Opus) or MP3"

# What `soundfile` raises on damaged files.
DECODE_ERRORS = (soundfile.SoundFileError, RuntimeError, ValueError, TypeError, OSError, MemoryError)

_MEDIA_TYPES = ("audio/x-wav", "audio/wav", "audio/x-flac", "audio/flac", "audio/ogg", "audio/mpeg")
_SNIFFED_BYTES = 262  # what `filetype` looks at
_OGG_CODECS = (b"\x01vorbis", b"OpusHead")  # the beginning of the first packet
_OGG_FIRST_PAGE = b"OggS\x00\x02"  # the first page of a stream
_OGG_HEADER_BYTES = 27
_MAX_STREAMS = 1000
_MP3_COUNTS = (b"Xing", b"Info")  # names of the tag in the first frame that holds the number of frames
_TAG_BYTES = 64  # from the first frame's start; the name of that tag is within
_ID3_END_BYTES = 128  # an ID3v1 tag after the last frame
_MAX_FRAMES = 2**31 - 1
_SIZE_FACTOR = 64  # bit rates of MP3 frames differ by a factor of at most 40


class AudioStream(soundfile.SoundFile):  # type: ignore[misc]
    """One stream of samples, read from start to end.

    `soundfile` seeks after every block if it can. That fails where the length is unknown, as in a FLAC file
    that was written to a pipe.
    """

    def seekable(self) -> bool:
        """Return False, so that `soundfile` does not seek."""
        return False


def open_streams(body: bytes, declared_type: str = "") -> Iterator[AudioStream]:
    """Yield the streams of an audio file, in order.

    Concatenated Ogg files are several streams; concatenated MP3 files are one.

    Args:
        body: The file's bytes.
        declared_type: Media type that the client sent; used only in error messages.

    Raises:
        InvalidInput: The file is empty, damaged or of an unknown format.
        UnsupportedMedia: The file is of another known format, such as an image or a video.
    """
    if not body:
        raise InvalidInput(f"the audio is empty; send the bytes of a {FORMATS_TEXT} file")
    if not _is_supported(body):
        raise _unidentified(body, declared_type)
    for part in _parts(body):
        try:
            stream = AudioStream(_open_mp3(part) if _is_mp3(part) else BytesIO(part))
        except DECODE_ERRORS as error:
            raise InvalidInput(
                f"the audio is damaged or cut off: its header is not that of {FORMATS_TEXT}"
            ) from error
        with closing(stream):
            yield stream


def seconds_in_header(body: bytes) -> float:
    """Return the duration in an audio file's header, without decoding; 0 if there is none."""
    if not _is_supported(body):
        return 0.0
    try:
        seconds = 0.0
        for part in _parts(body):
            with soundfile.SoundFile(BytesIO(part)) as file:
                seconds += max(0.0, int(file.frames) / max(1, int(file.samplerate)))
        return seconds
    except (*DECODE_ERRORS, InvalidInput):
        return 0.0


def _is_supported(body: bytes) -> bool:
    """Return whether this is one of the four formats; libsndfile's many others are never tried."""
    if body[:4] in (b"RIFF", b"RIFX", b"RF64"):
        return body[8:12] == b"WAVE"
    if body[:4] == b"OggS":
        return any(codec in body[:_TAG_BYTES] for codec in _OGG_CODECS)
    return body[:4] == b"fLaC" or body[:3] == b"ID3" or _is_mp3(body)


def _is_mp3(body: bytes) -> bool:
    """Return whether this begins with an ID3 tag or an MPEG audio frame: 11 sync bits, version, layer."""
    start = _end_of_id3(body)
    header = body[start : start + 4]
    if start:
        return header != b"fLaC"
    return len(header) > 2 and header[0] == 0xFF and header[1] & 0xE0 == 0xE0 and bool(header[1] & 0x06)


def _end_of_id3(body: bytes) -> int:
    """Return the offset after an ID3v2 tag, 0 without one; its size has seven bits per byte."""
    if body[:3] != b"ID3" or len(body) < 10:
        return 0
    first, second, third, fourth = body[6:10]
    return 10 + (first << 21 | second << 14 | third << 7 | fourth)


def _unidentified(body: bytes, declared_type: str) -> InvalidInput | UnsupportedMedia:
    found = filetype.guess_mime(body[:_SNIFFED_BYTES])
    if found == "audio/ogg" and len(body) > _SNIFFED_BYTES:
        return UnsupportedMedia(f"the codec of this Ogg file is not decoded here; send a {FORMATS_TEXT} file")
    if found in _MEDIA_TYPES:
        return InvalidInput(f"the audio is damaged: it ends within the header of {found}")
    if found or (declared_type and not declared_type.startswith("audio/")):
        return UnsupportedMedia(f"{found or declared_type} is not decoded here; send a {FORMATS_TEXT} file")
    return InvalidInput(f"the bytes are not a known audio format; send a {FORMATS_TEXT} file")


def _parts(body: bytes) -> list[bytes]:
    """Split a file into parts that are decoded separately: libsndfile stops after the first Ogg stream.

    Raises:
        InvalidInput: The file has too many streams.
    """
    if body[:4] == b"RIFF":
        return [_repair_wav(body)]
    if body[:4] != b"OggS":
        return [body]
    starts, page, page_end = [0], 0, _end_of_page(body, 0)
    while (page := body.find(_OGG_FIRST_PAGE, page + 1)) >= 0:
        if page != page_end:  # else the two streams are interleaved
            starts.append(page)
        page_end = _end_of_page(body, page)
    if len(starts) > _MAX_STREAMS:
        raise InvalidInput(f"the audio has {len(starts)} streams; at most {_MAX_STREAMS} are allowed")
    if len(starts) == 1:
        return [body]
    return [body[start:end] for start, end in zip(starts, [*starts[1:], len(body)], strict=True)]


def _end_of_page(body: bytes, page: int) -> int:
    """Return the offset after an Ogg page: the header ends with the segment count, then come their sizes."""
    segments = page + _OGG_HEADER_BYTES
    sizes = body[segments : segments + body[segments - 1]] if segments <= len(body) else b""
    return segments + len(sizes) + sum(sizes)


def _repair_wav(body: bytes) -> bytes:
    """Correct the size of a WAV's samples where the header claims too little.

    Recorders that were never stopped leave such files. If no chunk begins after the claimed end, the bytes
    there are samples too. A size that is too large needs no correction: the decoder sees the end of the file.
    """
    start = 12
    while start + 8 <= len(body):
        name, size = struct.unpack_from("<4sI", body, start)
        end = start + 8 + size + size % 2
        if name == b"data":
            rest = len(body) - start - 8
            if end >= len(body) or _is_chunk(body, end):
                return body
            return b"".join((body[: start + 4], struct.pack("<I", rest), memoryview(body)[start + 8 :]))
        start = end
    return body


def _is_chunk(body: bytes, start: int) -> bool:
    name, size = body[start : start + 4], body[start + 4 : start + 8]
    if len(size) < 4:  # a few bytes of padding
        return True
    printable = all(0x20 <= letter < 0x7F for letter in name)
    return printable and start + 8 + int.from_bytes(size, "little") <= len(body) + 1


def _open_mp3(body: bytes) -> BytesIO:
    """Return an MP3 as a file that is decoded to its end.

    The decoder stops after the number of frames that the first frame states, which is too low in
    concatenated files. Without that number it estimates the length from the size and the first frame's bit
    rate, which is too low if the bit rate varies.
    """
    first = _end_of_id3(body)
    tag = max(body.find(name, first, first + _TAG_BYTES) for name in _MP3_COUNTS) + 4
    # The Xing tag: its name, flags for the fields that follow, number of frames, number of bytes; big-endian.
    flags = int.from_bytes(body[tag : tag + 4], "big") if tag >= 4 else 0
    if not flags & 1 or len(body) < tag + 12:
        return _OverstatedSizeFile(body)
    size = len(body) - first
    if flags & 2 and size - int.from_bytes(body[tag + 8 : tag + 12], "big") <= _ID3_END_BYTES:
        return BytesIO(body)
    repaired = bytearray(body)
    struct.pack_into(">I", repaired, tag + 4, _MAX_FRAMES)
    if flags & 2:
        struct.pack_into(">I", repaired, tag + 8, size)
    return BytesIO(repaired)


class _OverstatedSizeFile(BytesIO):
    """A file that reports a far larger size than it has."""

    def __init__(self, body: bytes) -> None:
        super().__init__(body)
        self._end = len(body)
        self._size = _SIZE_FACTOR * len(body)

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        if whence == SEEK_END:
            return super().seek(self._size + offset)
        return super().seek(offset, whence)

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        if self.tell() <= self._end:
            return super().readinto(buffer)
        buffer[:] = bytes(len(buffer))  # the decoder looks for a tag at the end
        return len(buffer)
