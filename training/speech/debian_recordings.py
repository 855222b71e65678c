"""Fetch recordings of people from Debian's packages, as tables to evaluate on (not to train on).

`asterisk-core-sounds-en-wav` contains the prompts of a telephone system, spoken by Allison Smith (CC-BY-SA
3.0). `pocketsphinx-testdata` contains a few sentences by other speakers (BSD). Only recordings whose words
are all in `speech.synthetic.grammar` are used; for the keyword classifier, every prompt of one word. Further
sentences are concatenated from the prompts, as a telephone system does it.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import soundfile
from numpy.typing import NDArray

from training.data.debian_packages import package_files
from training.speech.synthetic.grammar import COMMANDS, draw_sentence, vocabulary
from training.speech.synthetic.spoken_words import UNKNOWN

WORDS_FILE = "words.csv"
SENTENCES_FILE = "sentences.csv"
_PACKAGES = ("asterisk-core-sounds-en", "asterisk-core-sounds-en-wav", "pocketsphinx-testdata")
_LISTED = PurePosixPath("usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
_PROMPTS = PurePosixPath("usr/share/asterisk/sounds/en_US_f_Allison")
_PROMPTS_RATE = 8000
_OTHERS = PurePosixPath("usr/share/pocketsphinx/test/data")
_OTHERS_RATE = 16_000
# Recordings of other speakers within the grammar, with their transcripts from the package's files
# cards.transcription and tidigits.lsn.
_SENTENCES = {"cards/004.wav": "five five", "tidigits/dhd.2934z.raw": "two nine three four zero"}
_READER = "Allison Smith"
_JOINED_KINDS = ("number", "digits", "date", "time")
_JOINED_OF_A_KIND = 50
_SEED = 6
_HOMOPHONES = {"for"}

Samples = NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table; the fields are its columns.

    Attributes:
        audio: The sound file, relative to the table.
        text: The transcript or the label.
        speaker: The speaker.
        kind: `word`, `phrase` for several words, `joined` for a concatenated sentence.
    """

    audio: str
    text: str
    speaker: str
    kind: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """A recording of the telephone system: its name, such as `digits/7`, its text and its samples."""

    name: str
    text: str
    samples: Samples


def write_recorded_speech(folder: Path) -> dict[str, int]:
    """Fetch the packages; write the sounds, a table of words and a table of sentences.

    Args:
        folder: Where to write.

    Returns:
        Number of rows of each table.

    Raises:
        DataRejected: apt is missing or cannot fetch.
    """
    files = dict(package_files(_PACKAGES, _wanted))
    prompts = list(_prompts(files))
    for prompt in prompts:
        _write_sound(folder / f"{prompt.name}.wav", prompt.samples, _PROMPTS_RATE)
    recorded = [Row(f"{one.name}.wav", one.text, _READER, _kind(one.text)) for one in prompts]
    tables = {WORDS_FILE: [_labelled(row) for row in recorded if _is_word(row.text)]}
    tables[SENTENCES_FILE] = [
        *(row for row in recorded if _within(row.text)),
        *_joined(prompts, folder),
        *_others(files, folder),
    ]
    for name, rows in tables.items():
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([Row.__slots__, *map(astuple, rows)])
    return {name: len(rows) for name, rows in tables.items()}


def _wanted(path: PurePosixPath) -> bool:
    others = path.is_relative_to(_OTHERS) and str(path.relative_to(_OTHERS)) in _SENTENCES
    return path == _LISTED or others or (path.is_relative_to(_PROMPTS) and path.suffix == ".wav")


def _prompts(files: Mapping[PurePosixPath, bytes]) -> Iterator[Prompt]:
    """Yield the prompts with speech, without duplicates."""
    seen = set()
    for line in gzip.decompress(files[_LISTED]).decode("utf-8").splitlines():
        name, colon, description = line.partition(": ")
        text = " ".join(re.sub(r"[.,?!]", " ", description.lower()).split())
        content = files.get(_PROMPTS / f"{name}.wav")
        spoken = colon and text and not text.startswith("[") and not line.startswith(";")
        if content and spoken and content not in seen:
            seen.add(content)
            samples, _ = soundfile.read(io.BytesIO(content), dtype="int16")
            yield Prompt(name, re.sub(r" \[.*\]$", "", text), samples)


def _kind(text: str) -> str:
    return "phrase" if " " in text else "word"


def _is_word(text: str) -> bool:
    """Return whether a text is one word, but not a letter or a word that sounds like a keyword."""
    return len(text) > 1 and " " not in text and text not in _HOMOPHONES


def _labelled(row: Row) -> Row:
    return row if row.text in COMMANDS else Row(row.audio, UNKNOWN, row.speaker, row.kind)


def _within(text: str) -> bool:
    """Return whether all words of a text are in the grammar; a single letter is no word."""
    return len(text) > 1 and set(text.split()) <= set(vocabulary())


def _joined(prompts: Sequence[Prompt], folder: Path) -> Iterator[Row]:
    """Draw sentences that can be concatenated from prompts, equally many of each kind."""
    recorded: dict[str, Prompt] = {}
    for prompt in prompts:
        recorded.setdefault(prompt.text, prompt)
    random = np.random.default_rng(_SEED)
    left = dict.fromkeys(_JOINED_KINDS, _JOINED_OF_A_KIND)
    taken = set()
    while any(left.values()):
        sentence = draw_sentence(random)
        pieces = _pieces(sentence.text)
        possible = len(pieces) > 1 and all(piece in recorded for piece in pieces)
        if not possible or not left.get(sentence.kind) or sentence.text in taken:
            continue
        taken.add(sentence.text)
        name = f"joined/{sentence.kind}-{_JOINED_OF_A_KIND - left[sentence.kind] + 1:02d}.wav"
        samples = np.concatenate([recorded[piece].samples for piece in pieces])
        _write_sound(folder / name, samples, _PROMPTS_RATE)
        left[sentence.kind] -= 1
        yield Row(name, sentence.text, _READER, "joined")


def _pieces(text: str) -> list[str]:
    """Split a sentence as it was recorded: the two letters of `a m` and `p m` are one recording."""
    return re.findall(r"[ap] m|\S+", text)


def _others(files: Mapping[PurePosixPath, bytes], folder: Path) -> Iterator[Row]:
    for name, text in _SENTENCES.items():
        content, path = files[_OTHERS / name], PurePosixPath(name)
        raw = path.suffix == ".raw"
        samples = (
            np.frombuffer(content, "<i2") if raw else soundfile.read(io.BytesIO(content), dtype="int16")[0]
        )
        _write_sound(folder / path.with_suffix(".wav"), samples, _OTHERS_RATE)
        yield Row(str(path.with_suffix(".wav")), text, f"pocketsphinx: {path.parent}", _kind(text))


def _write_sound(path: Path, samples: Samples, sample_rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, sample_rate, subtype="PCM_16")
