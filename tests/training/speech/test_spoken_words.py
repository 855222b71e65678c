from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile

from service.repository.manifest import AudioInput, ModelManifest
from tests.training.speech.synthesisers import INSTALLED, hum
from training.recipes.speech_recipe import KeywordsRecipe, SpokenVoices, SpokenWordsData
from training.speech.dataset import SpeechFile
from training.speech.synthetic import corpus, spoken_words, voices
from training.speech.synthetic.spoken_words import LABELS, SILENCE, UNKNOWN, SpokenWords

TEST = len(LABELS) * 2 * 3  # labels, voices, conditions


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SpokenWords:
    monkeypatch.setattr(voices, "installed_voices", lambda: INSTALLED)
    monkeypatch.setattr(corpus, "synthesize", hum)
    monkeypatch.setattr(spoken_words, "synthesize", hum)
    speakers = SpokenVoices(validation=("espeak:en-us+f1",), test=("flite:rms", "espeak:en-gb+m3"))
    recipe = KeywordsRecipe(
        manifest=ModelManifest(name="words", task="audio-classification", license="Apache-2.0"),
        data=SpokenWordsData(train=390, validation=3 * len(LABELS), test=TEST, voices=speakers),
        input=AudioInput(max_seconds=5),
    )
    return SpokenWords(recipe, tmp_path)


def sound_of(file: SpeechFile) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], int]:
    sound, rate = soundfile.read(BytesIO(file.content))
    return sound, rate


def test_there_are_as_many_clips_of_each_label_and_of_other_words_more(source: SpokenWords) -> None:
    counts = Counter(source.training_set().texts)
    assert counts.pop(UNKNOWN) == 30
    assert set(counts) == set(LABELS) - {UNKNOWN} and set(counts.values()) == {10}


def test_a_clip_to_learn_from_lasts_a_little_more_than_a_second(source: SpokenWords) -> None:
    seconds = np.diff(source.training_set().offsets) / 16_000
    assert seconds.min() >= 1 and seconds.max() < 2


def test_silence_to_learn_from_is_noise_or_nothing_and_every_word_is_heard(source: SpokenWords) -> None:
    learnt = source.training_set()
    loudest = {name: [] for name in LABELS}  # type: dict[str, list[int]]
    for number, label in enumerate(learnt.texts):
        loudest[label].append(int(np.abs(learnt.utterance(number).astype(np.int64)).max()))
    assert len(set(loudest[SILENCE])) > 3
    assert all(min(peaks) > 1000 for label, peaks in loudest.items() if label != SILENCE)


def test_each_voice_speaks_each_label_in_each_condition_of_the_test(source: SpokenWords) -> None:
    files = source.held_out_files()
    assert len(files) == TEST
    spoken = [(file.text, *sorted(file.traits)) for file in files if file.text != SILENCE]
    assert len(set(spoken)) == (len(LABELS) - 1) * 6
    assert not any("voice" in trait for file in files if file.text == SILENCE for trait in file.traits)


def test_validation_meets_every_label_in_every_condition(source: SpokenWords) -> None:
    met = {(file.text, file.traits[0]) for file in source.validation_files()}
    assert len(met) == 3 * len(LABELS)


def test_held_out_files_are_sounds_of_about_a_second(source: SpokenWords) -> None:
    for file in source.held_out_files()[::7]:
        sound, rate = sound_of(file)
        assert 1 <= len(sound) / rate < 2 and np.isfinite(sound).all()


def test_the_description_says_that_other_words_are_held_out(source: SpokenWords) -> None:
    assert "that are only held out" in source.description and "flite:rms" in source.split
