"""A user's recordings as a source: sound files with transcripts or labels.

Training files are decoded once, as the service decodes them, into one array in memory or in the cache.
Validation and test files stay as they are.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidInput, TooLarge, UnsupportedMedia
from service.repository.manifest import AudioInput
from service.tasks import Limits
from training.data.split import Parts
from training.errors import DataRejected
from training.speech.dataset import SpeechFile, SpeechTrainingSet
from training.speech.decoding import decode_sound

_UNSPOKEN = set('.,;:!?"“”„…()')  # punctuation
_APART = "-\u2013\u2014/"  # hyphens, dashes and slashes separate words
_APOSTROPHES = "\u2019\u02bc`"


@dataclass(frozen=True, slots=True)
class Recording:
    """A sound file, its transcript or label, and its group, such as a speaker, that a split keeps together.

    Attributes:
        traits: Properties as `kind: value`, for metrics by slice.
    """

    path: Path
    text: str
    group: str
    traits: tuple[str, ...] = ()


class Recordings:
    """Recordings and their parts; see `SpeechSource`.

    Args:
        recordings: All recordings.
        parts: Indices of each part.
        spec: The graph's input, whose maximum length is also that of training sounds.
        cache: Folder for decoded samples; None keeps them in memory.
        about: Description and split.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        parts: Parts,
        spec: AudioInput,
        cache: Path | None,
        about: tuple[str, str],
    ) -> None:
        self._recordings, self._parts, self._spec, self._cache = recordings, parts, spec, cache
        self.description, self.split = about

    def training_set(self) -> SpeechTrainingSet:
        """Return the training part without sounds that are too long for the graph.

        Raises:
            DataRejected: A file is not readable, which the text names, or all are too long.
        """
        every = [self._recordings[number] for number in self._parts.train]
        samples, offsets = self._decoded(every)
        fitting = np.flatnonzero(np.diff(offsets))
        return SpeechTrainingSet(
            samples,
            np.append(offsets[fitting], offsets[-1]),
            [every[number].text for number in fitting.tolist()],
            [every[number].group for number in fitting.tolist()],
            too_long=len(every) - len(fitting),
        )

    def validation_files(self) -> list[SpeechFile]:
        """Return the validation part."""
        return [self._file(self._recordings[number]) for number in self._parts.validation]

    def held_out_files(self) -> list[SpeechFile]:
        """Return the test part."""
        return [self._file(self._recordings[number]) for number in self._parts.test]

    def _file(self, one: Recording) -> SpeechFile:
        content = one.path.read_bytes()
        _sound(one.path, content, self._spec, Limits().max_audio_seconds)  # raises if it is not readable
        return SpeechFile(one.path.name, content, one.text, one.traits)

    def _decoded(self, every: Sequence[Recording]) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
        """Decode files one after another; return i16 [S] and offsets i64 [N + 1]; too long ones are empty."""
        folder = self._folder(every)
        if folder is None:
            buffer = BytesIO()
            offsets = self._write(every, buffer)
            return np.frombuffer(buffer.getvalue(), dtype=np.int16), offsets
        if not (folder / "offsets.npy").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "samples.i16").open("wb") as file:
                offsets = self._write(every, file)
            np.save(folder / "offsets.npy", offsets)  # written last, as the mark of a complete cache
        return np.memmap(folder / "samples.i16", np.int16, "r"), np.load(folder / "offsets.npy")

    def _write(self, every: Sequence[Recording], file: BinaryIO) -> NDArray[np.int64]:
        offsets = [0]
        for one in every:
            try:
                sound = _sound(one.path, one.path.read_bytes(), self._spec, self._spec.max_seconds)
            except TooLarge:
                sound = np.zeros(0, dtype=np.int16)
            file.write(sound.tobytes())
            offsets.append(offsets[-1] + len(sound))
        if not offsets[-1]:
            longest = f"{self._spec.max_seconds:g} seconds"
            raise DataRejected(f"no recording to learn from is as short as {longest}")
        return np.array(offsets, dtype=np.int64)

    def _folder(self, chosen: Sequence[Recording]) -> Path | None:
        """Return the cache folder for these files in their present state."""
        if self._cache is None:
            return None
        key = hashlib.sha256(f"{self._spec}\n".encode())
        for one in chosen:
            status = one.path.stat()
            key.update(f"{one.path.resolve()} {status.st_size} {status.st_mtime_ns}\n".encode())
        return self._cache / f"recordings-{key.hexdigest()[:16]}"


def transcript_of(text: str, where: str) -> str:
    """Normalize a transcript: lower-case letters and apostrophes, single spaces, no punctuation.

    Args:
        text: The user's transcript.
        where: File and line, for the message.

    Raises:
        DataRejected: It has no words, or characters whose pronunciation is unknown.
    """
    composed = unicodedata.normalize("NFC", text).lower()
    for mark in _APART:
        composed = composed.replace(mark, " ")
    for mark in _APOSTROPHES:
        composed = composed.replace(mark, "'")
    words = "".join(letter for letter in composed if letter not in _UNSPOKEN).split()
    for letter in "".join(words):
        if not letter.isalpha() and letter != "'" and not unicodedata.combining(letter):
            raise DataRejected(f"{where}: {letter!r} is no letter; write everything out as it is spoken")
    if not any(letter.isalpha() for letter in "".join(words)):
        raise DataRejected(f"{where}: there are no words in {text!r}")
    return " ".join(words)


def _sound(path: Path, content: bytes, spec: AudioInput, max_seconds: float) -> NDArray[np.int16]:
    try:
        return decode_sound(content, spec, max_seconds)
    except (InvalidInput, UnsupportedMedia) as error:
        raise DataRejected(f"{path}: {error}") from error
