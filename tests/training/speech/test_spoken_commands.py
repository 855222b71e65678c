import re
from io import BytesIO
from pathlib import Path

import pytest
import soundfile

from service.repository.manifest import AudioInput, ModelManifest
from tests.training.speech.synthesisers import INSTALLED, hum
from training.recipes.load import load_recipe
from training.recipes.speech_recipe import SpeechRecipe, SpokenCommandsData, SpokenVoices
from training.speech.synthetic import corpus, spoken_commands, voices
from training.speech.synthetic.conditions import CONDITIONS
from training.speech.synthetic.spoken_commands import SpokenCommands


def recipe(train: int = 40, test: int = 9) -> SpeechRecipe:
    speakers = SpokenVoices(validation=("espeak:en-us+f1",), test=("flite:rms", "espeak:en-gb+m3"))
    return SpeechRecipe(
        manifest=ModelManifest(name="commands", task="speech-recognition", license="Apache-2.0"),
        data=SpokenCommandsData(train=train, validation=6, test=test, voices=speakers),
        input=AudioInput(max_seconds=20),
    )


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SpokenCommands:
    monkeypatch.setattr(voices, "installed_voices", lambda: INSTALLED)
    monkeypatch.setattr(corpus, "synthesize", hum)
    monkeypatch.setattr(spoken_commands, "synthesize", hum)
    return SpokenCommands(recipe(), tmp_path)


def test_who_speaks_what_is_held_out_speaks_nothing_that_is_learnt_from(source: SpokenCommands) -> None:
    learnt = set(source.training_set().voices)
    validation, test = (
        {
            trait.removeprefix("voice: ")
            for file in files
            for trait in file.traits
            if trait.startswith("voice: ")
        }
        for files in (source.validation_files(), source.held_out_files())
    )
    assert validation == {"espeak:en-us+f1"} and test == {"flite:rms", "espeak:en-gb+m3"}
    assert learnt <= {"espeak:en-us+f2", "espeak:en-gb+f2", "flite:slt"}


def test_every_held_out_utterance_is_there_in_three_conditions(source: SpokenCommands) -> None:
    files = source.held_out_files()
    assert len(files) == 3 * 9 and len({file.name for file in files}) == len(files)
    for condition in ("clean", "noisy", "telephone"):
        chosen = [file for file in files if f"condition: {condition}" in file.traits]
        assert [file.text for file in chosen] == [file.text for file in files[:9]]
        rates = {soundfile.info(BytesIO(file.content)).samplerate for file in chosen}
        assert rates == {8000 if condition == "telephone" else 16_000}


def test_validation_meets_every_condition(source: SpokenCommands) -> None:
    conditions = {file.traits[1] for file in source.validation_files()}
    assert conditions == {"condition: clean", "condition: noisy", "condition: telephone"}


def test_transcripts_are_words_even_of_two_sentences(source: SpokenCommands) -> None:
    texts = source.training_set().texts
    assert len(texts) == 40
    assert all(re.fullmatch(r"[a-z']+( [a-z']+)*", text) for text in texts)


def test_the_description_tells_who_speaks_and_how_many_sentences_are_known(source: SpokenCommands) -> None:
    assert "the recorded slt" in source.description and "the recorded rms" in source.description
    known = re.search(r"(\d+) of those are sentences that are also learnt from", source.description)
    assert known and 0 <= int(known.group(1)) <= 9
    marked = [file for file in source.held_out_files() if "sentence: also learnt from" in file.traits]
    assert len(marked) == int(known.group(1)) * len(CONDITIONS)
    assert "flite:rms" in source.split and "espeak:en-us+f1" in source.split


def test_the_parts_are_the_same_every_time(source: SpokenCommands, tmp_path: Path) -> None:
    again = SpokenCommands(recipe(), tmp_path / "elsewhere")
    assert source.held_out_files() == again.held_out_files()
    assert source.training_set().texts == again.training_set().texts


def test_the_shipped_recipe_holds_out_a_recorded_speaker_and_seven_made_ones() -> None:
    shipped = load_recipe("spoken-commands")
    assert isinstance(shipped, SpeechRecipe) and isinstance(shipped.data, SpokenCommandsData)
    assert "flite:rms" in shipped.data.voices.test and len(shipped.data.voices.test) == 8
