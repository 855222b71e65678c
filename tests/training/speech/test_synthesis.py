import numpy as np
import pytest

from tests.training.speech.synthesisers import need_synthesisers
from training.errors import DataRejected
from training.speech.synthetic import voices
from training.speech.synthetic.synthesis import SpeechRequest, synthesize
from training.speech.synthetic.voices import Prosody, Voice

RATE = 16_000
ESPEAK, FLITE = Voice("espeak", "en-gb+f2"), Voice("flite", "slt")


@pytest.fixture(autouse=True)
def _needed() -> None:
    need_synthesisers()


def order(voice: Voice, text: str = "seven zero oh three", **manner: float) -> SpeechRequest:
    return SpeechRequest(text, voice, Prosody(**manner))  # type: ignore[arg-type]


@pytest.mark.parametrize("voice", [ESPEAK, FLITE], ids=str)
def test_slower_lasts_longer_and_everything_peaks_alike(voice: Voice) -> None:
    slow, fast = synthesize([order(voice, speed=0.75), order(voice, speed=1.25)], RATE)
    assert len(slow) > 1.25 * len(fast)
    assert 0.69 < np.abs(slow).max() / 32768 < 0.71
    assert 0.5 * RATE < len(fast) < 4 * RATE


@pytest.mark.parametrize("voice", [ESPEAK, FLITE], ids=str)
def test_the_wanted_silence_stands_around_what_is_said(voice: Voice) -> None:
    (sound,) = synthesize([order(voice, lead_seconds=0.3, tail_seconds=0.1)], RATE)
    loud = np.flatnonzero(np.abs(sound) > 0.02 * np.abs(sound).max())
    assert loud[0] / RATE == pytest.approx(0.3, abs=0.03)
    assert (len(sound) - loud[-1]) / RATE == pytest.approx(0.1, abs=0.05)


def test_a_shift_makes_a_voice_faster_by_as_much() -> None:
    plain, shifted = synthesize([order(FLITE), order(FLITE, shift=1.2)], RATE)
    assert (len(plain) - 0.4 * RATE) / (len(shifted) - 0.4 * RATE) == pytest.approx(1.2, rel=0.03)


def test_the_same_order_always_sounds_the_same_and_at_any_rate_lasts_as_long() -> None:
    first, again = synthesize([order(ESPEAK)] * 2, RATE)
    assert np.array_equal(first, again)
    (low,) = synthesize([order(ESPEAK)], 8000)
    assert len(low) * 2 == pytest.approx(len(first), abs=200)


def test_nothing_to_say_is_no_sound() -> None:
    silent, spoken = synthesize([order(ESPEAK, ""), order(FLITE, "yes")], RATE)
    assert len(silent) == 0 and len(spoken) > 0


def test_a_voice_that_fails_is_named_with_the_sentence() -> None:
    with pytest.raises(DataRejected, match="espeak:zz-nowhere cannot speak 'go home'"):
        synthesize([order(Voice("espeak", "zz-nowhere"), "go home")], RATE)


def test_every_voice_of_the_machine_is_one_of_a_known_program() -> None:
    installed = voices.installed_voices()
    assert {ESPEAK, FLITE, Voice("flite", "rms")} <= set(installed)
    assert not any("whisper" in voice.name for voice in installed)


def test_voices_of_festival_speak_where_it_is_installed() -> None:
    recorded = [voice for voice in voices.installed_voices() if voice.engine == "festival"]
    if not recorded:
        pytest.skip("festival or its voices are not installed")
    orders = [order(voice, speed=speed) for voice in recorded for speed in (0.75, 1.25)]
    sounds = synthesize(orders, RATE)
    for slow, fast in zip(sounds[::2], sounds[1::2], strict=True):
        assert len(slow) > 1.2 * len(fast) > 0
