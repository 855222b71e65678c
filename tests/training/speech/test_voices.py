import shutil

import numpy as np
import pytest

from training.errors import DataRejected
from training.recipes.speech_recipe import SpokenVoices
from training.speech.synthetic import voices
from training.speech.synthetic.voices import Voice, draw_prosody, draw_test_prosody, draw_voice, split_voices

INSTALLED = (
    *[Voice("espeak", f"{accent}+{variant}") for accent in ("en-gb", "en-us") for variant in
      ("f1", "f2", "steph", "steph2", "m1", "Andy", "AnxiousAndy")],
    *[Voice("flite", name) for name in ("slt", "awb", "rms", "kal16")],
    *[Voice("festival", name) for name in ("kal", "slt")],
)  # fmt: skip


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voices, "installed_voices", lambda: INSTALLED)


def divided(validation: tuple[str, ...], test: tuple[str, ...]) -> voices.VoiceSplit:
    return split_voices(SpokenVoices(validation=validation, test=test))


def test_no_speaker_is_in_two_parts() -> None:
    drawn = divided(("espeak:en-us+f2", "flite:kal16"), ("flite:rms", "espeak:en-gb+steph"))
    parts = [{voice.speaker for voice in part} for part in (drawn.train, drawn.validation, drawn.test)]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert Voice("espeak", "en-gb+f2") not in drawn.train  # whatever the accent
    assert Voice("festival", "kal") not in drawn.train  # the same person in another program
    assert Voice("espeak", "en-us+f1") in drawn.train


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("espeak:en-us+steph", "espeak:en-gb+steph2", True),
        ("espeak:en-us+Andy", "espeak:en-us+AnxiousAndy", True),
        ("espeak:en-us+f1", "espeak:en-us+f2", False),
        ("flite:kal16", "festival:kal", True),
        ("flite:slt", "flite:rms", False),
    ],
)
def test_a_speaker_is_a_variant_or_a_person(one: str, other: str, same: bool) -> None:
    first, second = (Voice(*name.split(":")) for name in (one, other))
    assert (first.speaker == second.speaker) is same


def test_a_voice_that_is_not_there_is_named() -> None:
    with pytest.raises(DataRejected, match="espeak:en-us\\+nobody"):
        divided(("espeak:en-us+nobody",), ("flite:rms",))


def test_a_speaker_named_for_both_held_out_parts_is_refused() -> None:
    with pytest.raises(DataRejected, match="espeak f1 is named for validation and for the test"):
        divided(("espeak:en-us+f1",), ("espeak:en-gb+f1",))


def test_voices_of_festival_may_be_missing_but_not_all_of_a_part() -> None:
    assert divided(("festival:ked", "espeak:en-us+f1"), ("flite:rms",)).validation == (
        Voice("espeak", "en-us+f1"),
    )
    with pytest.raises(DataRejected, match="none of the voices festival:ked"):
        divided(("festival:ked",), ("flite:rms",))


def test_a_missing_synthesiser_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "flite" else f"/bin/{name}")
    with pytest.raises(DataRejected, match="flite not found: apt install espeak-ng flite"):
        voices.installed_voices()


def test_most_is_spoken_by_espeak_and_the_rest_by_each_recorded_person_alike() -> None:
    random = np.random.default_rng(0)
    drawn = [draw_voice(INSTALLED, random) for _ in range(3000)]
    made = sum(voice.engine == "espeak" for voice in drawn) / len(drawn)
    assert 0.56 < made < 0.64
    people = [voice.speaker for voice in drawn if voice.engine != "espeak"]
    shares = [people.count(name) / len(people) for name in ("slt", "awb", "rms", "kal")]
    assert all(0.2 < share < 0.3 for share in shares)


def test_only_recorded_voices_that_are_learnt_from_are_shifted() -> None:
    random = np.random.default_rng(0)
    assert all(draw_test_prosody(random).shift == 1 for _ in range(50))
    assert all(draw_prosody(Voice("espeak", "en-us+f1"), random).shift == 1 for _ in range(50))
    assert len({draw_prosody(Voice("flite", "slt"), random).shift for _ in range(50)}) > 40
