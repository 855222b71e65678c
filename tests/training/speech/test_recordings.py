from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import soundfile

from service.repository.manifest import AudioInput, ModelManifest
from training.errors import DataRejected
from training.recipes.recipe import Split
from training.recipes.speech_recipe import (
    KeywordsRecipe,
    SpeechFolderData,
    SpeechRecipe,
    SpeechTableData,
)
from training.speech.decoding import decode_sound
from training.speech.recordings import transcript_of
from training.speech.speech_folder import SpeechFolder
from training.speech.speech_table import SpeechTable

SPEC = AudioInput(max_seconds=2)
SPLIT = Split(test=0.25, validation=0.25)


def write_tone(path: Path, hertz: float, seconds: float = 0.5, rate: int = 16_000, channels: int = 1) -> None:
    tone = 0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    soundfile.write(path, np.stack([tone] * channels, axis=1), rate)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight speakers with two utterances each, some FLAC, some OGG at another rate and in stereo."""
    for speaker in range(100, 108):
        place = tmp_path / "speech" / str(speaker) / "7"
        place.mkdir(parents=True)
        lines = StringIO()
        for number in range(2):
            name = f"{speaker}-7-{number:04d}"
            if number:
                write_tone(place / f"{name}.ogg", speaker, rate=22_050, channels=2)
            else:
                write_tone(place / f"{name}.flac", speaker)
            lines.write(f"{name} SPEAKER NUMBER {'ONE' if number else 'TWO'}\n")
        (place / f"{speaker}-7.trans.txt").write_text(lines.getvalue(), encoding="utf-8")
    return tmp_path / "speech"


def speech(data: SpeechFolderData | SpeechTableData) -> SpeechRecipe:
    manifest = ModelManifest(name="mine", task="speech-recognition", license="Apache-2.0")
    return SpeechRecipe(manifest=manifest, data=data, input=SPEC, split=SPLIT)


def labels(data: SpeechTableData) -> KeywordsRecipe:
    manifest = ModelManifest(name="mine", task="audio-classification", license="Apache-2.0")
    return KeywordsRecipe(manifest=manifest, data=data, input=SPEC, split=SPLIT)


def of(folder: Path) -> SpeechFolder:
    return SpeechFolder(speech(SpeechFolderData(path=folder)))


def test_a_folder_is_divided_by_speaker_and_decoded_at_the_rate_of_the_graph(folder: Path) -> None:
    source = of(folder)
    learnt, validation, test = source.training_set(), source.validation_files(), source.held_out_files()
    speakers = [set(learnt.voices)] + [
        {file.name.partition("-")[0] for file in part} for part in (validation, test)
    ]
    assert [len(part) for part in speakers] == [4, 2, 2] and len(set.union(*speakers)) == 8
    for number in range(len(learnt)):
        sound = learnt.utterance(number)
        assert len(sound) == pytest.approx(8000, abs=2)
        spectrum = np.abs(np.fft.rfft(sound.astype(float), 16_000))
        assert int(spectrum.argmax()) == pytest.approx(int(learnt.voices[number]), abs=2)
    assert set(learnt.texts) == {"speaker number one", "speaker number two"}
    assert "16 utterances by 8 speakers" in source.description


def test_held_out_files_are_the_users_own(folder: Path) -> None:
    for file in of(folder).held_out_files():
        assert file.content == next(folder.rglob(file.name)).read_bytes()


def test_decoded_samples_are_kept_until_a_file_changes(folder: Path, tmp_path: Path) -> None:
    recipe, cache = speech(SpeechFolderData(path=folder)), tmp_path / "runs"
    first = SpeechFolder(recipe, cache).training_set()
    again = SpeechFolder(recipe, cache).training_set()
    assert np.array_equal(first.utterance(3), again.utterance(3)) and len(list(cache.iterdir())) == 1
    name = f"{first.voices[0]}-7-0000.flac"
    write_tone(next(folder.rglob(name)), 50, seconds=0.75)
    changed = SpeechFolder(recipe, cache).training_set()
    assert len(changed.utterance(0)) == 12_000 and len(list(cache.iterdir())) == 2


def test_utterances_longer_than_the_graph_takes_are_not_learnt_from(folder: Path) -> None:
    name = f"{of(folder).training_set().voices[0]}-7-0000.flac"
    write_tone(next(folder.rglob(name)), 100, seconds=2.5)
    learnt = of(folder).training_set()
    assert len(learnt) == 7 and np.diff(learnt.offsets).max() < 2 * 16_000
    assert learnt.description == "7 sounds (1 more too long)"
    assert len(learnt.texts) == len(learnt.voices) == 7


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("100-7-0000 ROOM 12", r"100-7\.trans\.txt, line 1: '1' is no letter"),
        ("100-7-0000", r"line 1: there are no words"),
        ("100-7-0009 HELLO", r"line 1: there is no sound file 100-7-0009"),
    ],
)
def test_a_bad_line_is_named(folder: Path, line: str, message: str) -> None:
    (folder / "100" / "7" / "100-7.trans.txt").write_text(line + "\n", encoding="utf-8")
    with pytest.raises(DataRejected, match=message):
        of(folder)


def test_a_sound_that_cannot_be_read_or_is_empty_is_named(folder: Path) -> None:
    for path in folder.rglob("*-7-0000.flac"):
        path.write_bytes(b"this is no sound")
    with pytest.raises(DataRejected, match=r"-7-0000\.flac: the bytes are not a known audio format"):
        of(folder).training_set()
    for path in list(folder.rglob("*-7-0000.flac")):
        path.unlink()
        write_tone(path.with_suffix(".wav"), 100, seconds=0)
    with pytest.raises(DataRejected, match=r"-7-0000\.wav: the audio has no samples"):
        of(folder).training_set()


def test_a_folder_that_is_missing_or_has_no_transcripts_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataRejected, match=r"there is no folder .*nowhere"):
        of(tmp_path / "nowhere")
    with pytest.raises(DataRejected, match=r"no file in it is named \*\.trans\.txt"):
        of(tmp_path)


def write_table(folder: Path, rows: list[tuple[str, str, str]]) -> Path:
    path = folder / "table.csv"
    path.write_text("audio,text,who\n" + "".join(f"{','.join(row)}\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    for number in range(12):
        write_tone(tmp_path / f"{number}.wav", 200 + number)
    rows = [(f"{number}.wav", "It's Café-Time!", f"speaker {number // 2}") for number in range(12)]
    return write_table(tmp_path, rows)


def test_a_table_is_divided_by_its_group(table: Path) -> None:
    source = SpeechTable(speech(SpeechTableData(path=table, group="who")))
    learnt = set(source.training_set().voices)
    held_out = {trait for file in source.held_out_files() for trait in file.traits}
    assert len(learnt) == 3 and not {f"who: {name}" for name in learnt} & held_out
    assert set(source.training_set().texts) == {"it's café time"}
    assert source.split.startswith("by who")


def test_all_of_a_table_can_be_measured_with_nothing_left_to_learn_from(table: Path) -> None:
    text = table.read_text(encoding="utf-8").replace("text,who", "text,speaker")
    table.write_text(text, encoding="utf-8")
    recipe = speech(SpeechTableData(path=Path("another.csv"), group="who")).measured_on(table)
    source = SpeechTable(recipe)
    assert [file.name for file in source.held_out_files()] == [f"{number}.wav" for number in range(12)]
    assert source.held_out_files()[3].traits == ("speaker: speaker 1",)
    assert not source.validation_files()
    with pytest.raises(DataRejected, match="no recording to learn from"):
        source.training_set()


def test_a_table_that_is_not_there_or_names_no_columns_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataRejected, match=r"there is no file .*nowhere\.csv"):
        SpeechTable(labels(SpeechTableData(path=tmp_path / "nowhere.csv")))
    (tmp_path / "empty.csv").write_text("", encoding="utf-8")
    with pytest.raises(DataRejected, match=r"empty\.csv is empty"):
        SpeechTable(labels(SpeechTableData(path=tmp_path / "empty.csv")))


def test_labels_stay_as_they_are_and_every_part_has_each(tmp_path: Path) -> None:
    for number in range(24):
        write_tone(tmp_path / f"{number}.wav", 200 + number)
    rows = [(f"{number}.wav", f"Class {number % 2}", "x") for number in range(24)]
    source = SpeechTable(labels(SpeechTableData(path=write_table(tmp_path, rows))))
    parts = [list(source.training_set().texts), [file.text for file in source.held_out_files()]]
    assert all(set(part) == {"Class 0", "Class 1"} for part in parts)


def test_speakers_are_kept_apart_where_a_table_names_them(table: Path) -> None:
    named = table.with_name("named.csv")
    named.write_text(table.read_text(encoding="utf-8").replace(",who\n", ",speaker\n"), encoding="utf-8")
    source = SpeechTable(speech(SpeechTableData(path=named)))
    held_out = {file.traits for file in source.held_out_files() + source.validation_files()}
    assert source.split.startswith("by speaker")
    assert not {(f"speaker: {name}",) for name in source.training_set().voices} & held_out


def test_a_label_of_which_there_is_too_little_is_named(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav", 200)
    rows = [("a.wav", "yes", "x")] * 20 + [("a.wav", "no", "x")] * 2
    with pytest.raises(DataRejected, match=r"label no has too few sound files .*: 2"):
        SpeechTable(labels(SpeechTableData(path=write_table(tmp_path, rows))))


def test_a_label_that_only_a_held_out_speaker_says_is_named(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav", 200)
    rows = [("a.wav", word, f"speaker {number}") for number in range(8) for word in ("yes", "no")]
    recipe = labels(SpeechTableData(path=write_table(tmp_path, rows), group="who"))
    odd = min({who for _, _, who in rows} - set(SpeechTable(recipe).training_set().voices))
    write_table(tmp_path, [*rows, ("a.wav", "maybe", odd)])
    with pytest.raises(DataRejected, match="label maybe is held out only"):
        SpeechTable(recipe)


def test_what_is_learnt_from_is_decoded_as_the_service_does(folder: Path) -> None:
    learnt = of(folder).training_set()
    for number, name in enumerate(learnt.voices):
        file = f"{name}-7-0001.ogg" if learnt.texts[number].endswith("one") else f"{name}-7-0000.flac"
        (path,) = folder.rglob(file)
        assert np.array_equal(learnt.utterance(number), decode_sound(path.read_bytes(), SPEC))


def test_a_row_whose_file_is_missing_or_whose_text_is_empty_is_named(tmp_path: Path) -> None:
    data = SpeechTableData(path=write_table(tmp_path, [("not-there.wav", "hello", "a")]))
    with pytest.raises(DataRejected, match=r"table\.csv, row 1: there is no sound file .*not-there\.wav"):
        SpeechTable(speech(data))
    write_tone(tmp_path / "there.wav", 200)
    data = SpeechTableData(path=write_table(tmp_path, [("there.wav", " ", "a")]))
    with pytest.raises(DataRejected, match="row 1: there is no text under text"):
        SpeechTable(speech(data))


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("Hello,  WORLD!", "hello world"),
        ("It\N{RIGHT SINGLE QUOTATION MARK}s well-known", "it's well known"),
        ("Größe", "größe"),
        ("e\N{COMBINING ACUTE ACCENT}te\N{COMBINING ACUTE ACCENT}", "été"),
    ],
)
def test_transcripts_are_written_as_they_are_learnt(text: str, written: str) -> None:
    assert transcript_of(text, "here") == written
