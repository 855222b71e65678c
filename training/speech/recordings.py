"""Users' recordings as a source: files with what is said in them, or with labels.

Files are decoded once, into one array in memory or in the cache; held-out files stay as they are.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.manifest import AudioInput
from training.data.split import Parts
from training.errors import DataRejected
from training.speech.sound_files import read_sound, samples_of
from training.speech.utterances import SpokenFile, SpokenSet

_UNSPOKEN = set('.,;:!?"“”„…()')  # punctuation that nobody pronounces
_APART = "-\u2013\u2014/"  # hyphens, dashes and strokes stand between words
_APOSTROPHES = "\u2019\u02bc`"


@dataclass(frozen=True, slots=True)
class Recording:
    """A sound file, what is said in it, and the group, such as a speaker, that is kept together.

    Attributes:
        traits: What is notable about it, as `kind: value`, for figures by slice.
    """

    path: Path
    text: str
    group: str
    traits: tuple[str, ...] = ()


class Recordings:
    """Recordings, divided into parts.

    Args:
        recordings: All of them.
        parts: Which are learnt from, and which are held out.
        spec: The graph's input; what is learnt from is at most as long as it takes.
        cache: Folder that decoded samples are kept in; in memory if None.
        told: What they are, for people.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        parts: Parts,
        spec: AudioInput,
        cache: Path | None,
        told: tuple[str, str],
    ) -> None:
        self._recordings, self._parts, self._spec, self._cache = recordings, parts, spec, cache
        self.description, self.split = told

    def training_set(self) -> SpokenSet:
        """Give what is learnt from.

        Raises:
            DataRejected: A file is missing or cannot be read; the text names it.
        """
        rate, longest = self._spec.sample_rate, self._spec.max_seconds
        every = [self._recordings[number] for number in self._parts.train]
        bounds = [samples_of(one.path, rate) for one in every]
        fitting = [bound <= longest * rate + 1 for bound in bounds]
        chosen = [one for one, fits in zip(every, fitting, strict=True) if fits]
        if not chosen:
            raise DataRejected(f"no recording to learn from is as short as {longest:g} seconds")
        room = sum(bound for bound, fits in zip(bounds, fitting, strict=True) if fits)
        texts, groups = [one.text for one in chosen], [one.group for one in chosen]
        return SpokenSet(*self._decoded(chosen, room), texts, groups)

    def validation_files(self) -> list[SpokenFile]:
        """Give the files to stop by."""
        return [self._file(self._recordings[number]) for number in self._parts.validation]

    def held_out_files(self) -> list[SpokenFile]:
        """Give the test part."""
        return [self._file(self._recordings[number]) for number in self._parts.test]

    def _file(self, one: Recording) -> SpokenFile:
        read_sound(one.path, self._spec.sample_rate)  # raises if it is no sound
        return SpokenFile(one.path.name, one.path.read_bytes(), one.text, one.traits)

    def _decoded(self, chosen: Sequence[Recording], room: int) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
        """Decode files one behind the other: i16 [S], of which the first `offsets[-1]` are used."""
        folder = self._folder(chosen)
        if folder and (folder / "offsets.npy").is_file():
            return np.load(folder / "samples.npy", mmap_mode="r"), np.load(folder / "offsets.npy")
        samples = _space(folder, room)
        offsets = [0]
        for one in chosen:
            sound = read_sound(one.path, self._spec.sample_rate)[: room - offsets[-1]]
            samples[offsets[-1] : offsets[-1] + len(sound)] = sound
            offsets.append(offsets[-1] + len(sound))
        ends = np.array(offsets, dtype=np.int64)
        if folder:
            np.save(folder / "offsets.npy", ends)  # last: it says that all is there
        return samples, ends

    def _folder(self, chosen: Sequence[Recording]) -> Path | None:
        """Name the cache of these files as they are now."""
        if self._cache is None:
            return None
        told = hashlib.sha256(f"{self._spec.sample_rate}\n".encode())
        for one in chosen:
            about = one.path.stat()
            told.update(f"{one.path.resolve()} {about.st_size} {about.st_mtime_ns}\n".encode())
        return self._cache / f"recordings-{told.hexdigest()[:16]}"


def transcript_of(text: str, where: str) -> str:
    """Write a transcript as it is learnt: lower-case letters and apostrophes, single spaces.

    Punctuation that nobody pronounces is left out.

    Args:
        text: As the user wrote it.
        where: File and line, for the message.

    Raises:
        DataRejected: It has no words, or characters that say nothing about how they are spoken.
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


def _space(folder: Path | None, room: int) -> NDArray[np.int16]:
    if folder is None:
        return np.zeros(room, dtype=np.int16)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "samples.npy"
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.int16, shape=(room,))
