"""Sound files, opened by libsndfile: WAV, FLAC, Ogg and MP3 -> streams that are read from front to back.

What a header says of the length is never believed: it is mended, so that the decoder goes on to where the
file ends. What is refused here, and in which words, is what a client is told.
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

# What the decoder's wrapper raises on damaged files.
DAMAGE = (soundfile.SoundFileError, RuntimeError, ValueError, TypeError, OSError, MemoryError)

_OUR_MEDIA_TYPES = ("audio/x-wav", "audio/wav", "audio/x-flac", "audio/flac", "audio/ogg", "audio/mpeg")
_SNIFFED_BYTES = 262  # what `filetype` looks at
_OGG_CODECS = (b"\x01vorbis", b"OpusHead")  # how the first packet begins
_OGG_BEGIN = b"OggS\x00\x02"  # a page that begins a stream
_OGG_HEADER_BYTES = 27
_MOST_STREAMS = 1000
_MP3_COUNTS = (b"Xing", b"Info")  # names of the tag in the first frame that counts the others
_TAG_BYTES = 64  # the first frame's header and what may stand before that tag, its name included
_ID3_END_BYTES = 128  # an ID3v1 tag behind the last frame
_VERY_MANY = 2**31 - 1
_STEADIEST = 64  # no frame of an MP3 has more than 40 times the bit rate of another


class Stream(soundfile.SoundFile):  # type: ignore[misc]
    """One stream of samples, read from front to back.

    The wrapper seeks after every block where it can, which fails where the length is unknown: in a FLAC file
    that went through a pipe.
    """

    def seekable(self) -> bool:
        """Say no."""
        return False


def open_streams(body: bytes, declared_type: str = "") -> Iterator[Stream]:
    """Open what a sound file holds, one stream after another.

    There are several where Ogg files were put one behind the other; MP3 files put so are one.

    Args:
        body: The file's bytes.
        declared_type: Media type that the client named; only used to word the refusal.

    Raises:
        InvalidInput: Empty, damaged or unrecognisable.
        UnsupportedMedia: Recognised as something else, such as a picture or a film.
    """
    if not body:
        raise InvalidInput(f"the sound is empty; send the bytes of a {FORMATS_TEXT} file")
    if not _is_ours(body):
        raise _unidentified(body, declared_type)
    for part in _parts(body):
        try:
            stream = Stream(_endless_mp3(part) if _is_mp3(part) else BytesIO(part))
        except DAMAGE as error:
            raise InvalidInput(
                f"the sound is damaged or cut off: its header is not that of {FORMATS_TEXT}"
            ) from error
        with closing(stream):
            yield stream


def claimed_seconds(body: bytes) -> float:
    """Tell how long a sound file says that it is; 0 where it says nothing sensible. Decodes nothing."""
    if not _is_ours(body):
        return 0.0
    try:
        seconds = 0.0
        for part in _parts(body):
            with soundfile.SoundFile(BytesIO(part)) as file:
                seconds += max(0.0, int(file.frames) / max(1, int(file.samplerate)))
        return seconds
    except (*DAMAGE, InvalidInput):
        return 0.0


def _is_ours(body: bytes) -> bool:
    """Recognise the four formats, so that the decoder's many others are never tried."""
    if body[:4] in (b"RIFF", b"RIFX", b"RF64"):
        return body[8:12] == b"WAVE"
    if body[:4] == b"OggS":
        return any(codec in body[:_TAG_BYTES] for codec in _OGG_CODECS)
    return body[:4] == b"fLaC" or body[:3] == b"ID3" or _is_mp3(body)


def _is_mp3(body: bytes) -> bool:
    """Recognise an MPEG audio frame: eleven bits of sync, a version and a layer; or a tag before one."""
    at = _behind_id3(body)
    header = body[at : at + 4]
    if at:
        return header != b"fLaC"
    return len(header) > 2 and header[0] == 0xFF and header[1] & 0xE0 == 0xE0 and bool(header[1] & 0x06)


def _behind_id3(body: bytes) -> int:
    """Find what follows an ID3v2 tag: its size is seven bits a byte."""
    if body[:3] != b"ID3" or len(body) < 10:
        return 0
    first, second, third, fourth = body[6:10]
    return 10 + (first << 21 | second << 14 | third << 7 | fourth)


def _unidentified(body: bytes, declared_type: str) -> InvalidInput | UnsupportedMedia:
    found = filetype.guess_mime(body[:_SNIFFED_BYTES])
    if found == "audio/ogg" and len(body) > _SNIFFED_BYTES:
        return UnsupportedMedia(f"what this Ogg file holds is not decoded here; send a {FORMATS_TEXT} file")
    if found in _OUR_MEDIA_TYPES:
        return InvalidInput(f"the sound is damaged: it ends within the header of {found}")
    if found or (declared_type and not declared_type.startswith("audio/")):
        return UnsupportedMedia(f"{found or declared_type} is not decoded here; send a {FORMATS_TEXT} file")
    return InvalidInput(f"the bytes are not a sound that we know; send a {FORMATS_TEXT} file")


def _parts(body: bytes) -> list[bytes]:
    """Give what is decoded one after another: the decoder stops at the end of the first Ogg stream.

    Raises:
        InvalidInput: There are too many streams.
    """
    if body[:4] == b"RIFF":
        return [_honest_wav(body)]
    if body[:4] != b"OggS":
        return [body]
    starts, page, behind = [0], 0, _behind_page(body, 0)
    while (page := body.find(_OGG_BEGIN, page + 1)) >= 0:
        if page != behind:  # else the two are interleaved
            starts.append(page)
        behind = _behind_page(body, page)
    if len(starts) > _MOST_STREAMS:
        raise InvalidInput(f"the sound has {len(starts)} streams; at most {_MOST_STREAMS} are taken")
    if len(starts) == 1:
        return [body]
    return [body[start:end] for start, end in zip(starts, [*starts[1:], len(body)], strict=True)]


def _behind_page(body: bytes, page: int) -> int:
    """Find what follows a page of Ogg: the last byte of its header counts segments, whose sizes follow."""
    segments = page + _OGG_HEADER_BYTES
    sizes = body[segments : segments + body[segments - 1]] if segments <= len(body) else b""
    return segments + len(sizes) + sum(sizes)


def _honest_wav(body: bytes) -> bytes:
    """Mend a WAV that says it has less sound than it has, as recorders leave that were never stopped.

    What follows the samples must begin as a chunk does; where it does not, it is sound. One that says it has
    more needs no mending: the decoder sees where the file ends.
    """
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


def _endless_mp3(body: bytes) -> BytesIO:
    """Let an MP3 file be decoded to its end.

    The decoder stops at the count of frames that the first frame may hold, which is too low where files were
    put one behind the other. Without it, it stops where the size and the first frame's bit rate make it
    expect the end, which is too soon where the rate varies.
    """
    first = _behind_id3(body)
    places = (body.find(name, first, first + _TAG_BYTES) for name in _MP3_COUNTS)
    at = max(places) + 4
    # Xing's header: its name, flags that say which counts follow, those of frames and of bytes; big-endian.
    flags = int.from_bytes(body[at : at + 4], "big") if at >= 4 else 0
    if not flags & 1 or len(body) < at + 12:
        return _Lengthened(body)
    size = len(body) - first
    if flags & 2 and size - int.from_bytes(body[at + 8 : at + 12], "big") <= _ID3_END_BYTES:
        return BytesIO(body)
    mended = bytearray(body)
    struct.pack_into(">I", mended, at + 4, _VERY_MANY)
    if flags & 2:
        struct.pack_into(">I", mended, at + 8, size)
    return BytesIO(mended)


class _Lengthened(BytesIO):
    """A file that says it is far longer than it is."""

    def __init__(self, body: bytes) -> None:
        super().__init__(body)
        self._end = len(body)
        self._size = _STEADIEST * len(body)

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        if whence == SEEK_END:
            return super().seek(self._size + offset)
        return super().seek(offset, whence)

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        if self.tell() <= self._end:
            return super().readinto(buffer)
        buffer[:] = bytes(len(buffer))  # of a tag that the decoder looks for at the very end
        return len(buffer)
