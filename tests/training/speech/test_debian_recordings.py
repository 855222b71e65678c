import csv
import gzip
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.training.data.fixtures import packages_hold
from training.speech.debian_recordings import SENTENCES_FILE, WORDS_FILE, write_recorded_speech
from training.speech.synthetic.grammar import vocabulary

Rows = dict[str, dict[str, str]]
UNITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PROMPTS = {
    **{f"digits/{number}": name for number, name in enumerate(UNITS)},
    **{"digits/20": "twenty", "digits/40": "forty", "digits/hundred": "hundred", "digits/h-3": "third"},
    **{"digits/mon-2": "March", "digits/day-1": "Monday", "digits/day-2": "Tuesday", "digits/a-m": "A.M."},
    **{"digits/h-1": "first", "digits/h-2": "second", "digits/mon-4": "May", "digits/p-m": "P.M."},
    **{"letters/b": "b", "letters/dash": "dash [-]", "hello": "Hello.", "goodbye": "Goodbye", "for": "For."},
    **{"thanks": "Thank you.", "long": "Press the pound key.", "beep": "[a beep]"},
}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Rows, Rows]:
    """The folder, the table of words and the one of sentences, by file, out of stand-ins for the packages."""
    root = tmp_path_factory.mktemp("packages")
    sounds, texts, others = root / "sounds", root / "texts", root / "others"
    for number, name in enumerate([*PROMPTS, "not-listed"]):
        write(sounds / f"usr/share/asterisk/sounds/en_US_f_Allison/{name}.wav", number + 1, 8000)
    again = sounds / "usr/share/asterisk/sounds/en_US_f_Allison/hello.wav"
    (again.parent / "hello-again.wav").write_bytes(again.read_bytes())
    listed = "".join(f"{name}: {text}\n" for name, text in {**PROMPTS, "hello-again": "Hello."}.items())
    path = texts / "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(f"; Sounds in English\n\n{listed}".encode()))
    data = others / "usr/share/pocketsphinx/test/data"
    write(data / "cards/004.wav", 90, 16_000)
    write(data / "cards/005.wav", 91, 16_000)
    (data / "tidigits").mkdir()
    (data / "tidigits/dhd.2934z.raw").write_bytes(np.full(800, 77, dtype="<i2").tobytes())
    names = ("asterisk-core-sounds-en-wav", "asterisk-core-sounds-en", "pocketsphinx-testdata")
    with pytest.MonkeyPatch.context() as patch:
        packages_hold(patch, dict(zip(names, (sounds, texts, others), strict=True)))
        folder = root / "people"
        counts = write_recorded_speech(folder)
    found = [rows_of(folder / name) for name in (WORDS_FILE, SENTENCES_FILE)]
    assert counts == {WORDS_FILE: len(found[0]), SENTENCES_FILE: len(found[1])}
    return folder, found[0], found[1]


def write(path: Path, level: int, rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(400 + level, level, dtype=np.int16), rate)


def rows_of(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="") as file:
        return {row["audio"]: row for row in csv.DictReader(file)}


def test_single_words_have_their_label_or_are_unknown(tables: tuple[Path, Rows, Rows]) -> None:
    _, found, _ = tables
    assert found["digits/7.wav"]["text"] == "seven"
    assert {found[name]["text"] for name in ("hello.wav", "digits/mon-2.wav", "letters/dash.wav")} == {
        "unknown"
    }
    for name in ("letters/b.wav", "for.wav", "thanks.wav", "beep.wav", "hello-again.wav", "not-listed.wav"):
        assert name not in found


def test_sentences_are_of_words_of_the_language_alone(tables: tuple[Path, Rows, Rows]) -> None:
    _, _, found = tables
    assert {word for row in found.values() for word in row["text"].split()} <= set(vocabulary())
    assert found["thanks.wav"]["text"] == "thank you" and found["thanks.wav"]["kind"] == "phrase"
    assert found["digits/a-m.wav"]["text"] == "a m" and found["for.wav"]["text"] == "for"
    assert not {"goodbye.wav", "long.wav", "letters/b.wav", "hello-again.wav"} & set(found)


def test_joined_sentences_are_her_recordings_one_behind_the_other(tables: tuple[Path, Rows, Rows]) -> None:
    folder, _, found = tables
    joined = {name: row for name, row in found.items() if row["kind"] == "joined"}
    assert sorted(joined) == sorted(
        f"joined/{kind}-{number:02d}.wav"
        for kind in ("number", "digits", "date", "time")
        for number in range(1, 51)
    )
    levels = {text.lower().replace("a.m.", "a m").replace("p.m.", "p m").strip("."): number + 1
              for number, text in enumerate(PROMPTS.values())}  # fmt: skip
    for name, row in joined.items():
        sound, rate = soundfile.read(folder / name, dtype="int16")
        pieces = row["text"].replace("a m", "a_m").replace("p m", "p_m").split()
        heard = [levels[piece.replace("_", " ")] for piece in pieces]
        assert rate == 8000 and len(pieces) > 1
        assert sound.tolist() == [level for level in heard for _ in range(400 + level)]


def test_the_others_recordings_become_sound_files_with_what_is_said(tables: tuple[Path, Rows, Rows]) -> None:
    folder, _, found = tables
    others = {name: row for name, row in found.items() if row["speaker"].startswith("pocketsphinx")}
    assert {name: row["text"] for name, row in others.items()} == {
        "cards/004.wav": "five five",
        "tidigits/dhd.2934z.wav": "two nine three four zero",
    }
    sound, rate = soundfile.read(folder / "tidigits/dhd.2934z.wav", dtype="int16")
    assert rate == 16_000 and sound.tolist() == [77] * 800
