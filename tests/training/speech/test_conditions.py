from io import BytesIO

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from training.speech.synthetic.conditions import CONDITIONS, file_in_condition

RATE = 16_000


def spoken(hertz: float = 440.0) -> NDArray[np.int16]:
    """One second of a harmonic tone."""
    seconds = np.arange(RATE) / RATE
    tone = sum(np.sin(2 * np.pi * hertz * n * seconds) / n for n in range(1, 17))
    return (np.asarray(tone) * 8000).astype(np.int16)


def heard(condition: str, seed: int = 0, sound: NDArray[np.int16] | None = None) -> bytes:
    sound = spoken() if sound is None else sound
    talkers = [spoken(131), spoken(187)]
    return file_in_condition(sound, RATE, condition, talkers, np.random.default_rng(seed))


def test_a_clean_file_is_what_was_spoken_but_for_its_loudness() -> None:
    sound, rate = soundfile.read(BytesIO(heard("clean")))
    assert rate == RATE
    assert np.corrcoef(sound, spoken())[0, 1] > 0.9999
    assert 0.09 < np.abs(sound).max() < 0.9


@pytest.mark.parametrize("seed", range(8))
def test_noise_is_5_to_20_decibels_below_what_was_spoken(seed: int) -> None:
    sound, _ = soundfile.read(BytesIO(heard("noisy", seed)))
    clean = spoken() / 32768
    scale = float(sound @ clean / (clean @ clean))
    noise = sound - scale * clean
    decibels = 10 * np.log10(np.mean((scale * clean) ** 2) / np.mean(noise**2))
    assert 4.5 < decibels < 21


def test_the_telephone_has_8000_samples_of_mu_law_and_a_narrow_band() -> None:
    content = heard("telephone")
    about = soundfile.info(BytesIO(content))
    assert (about.samplerate, about.subtype, about.format) == (8000, "ULAW", "WAV")
    sound, _ = soundfile.read(BytesIO(heard("telephone", sound=spoken(110))))
    power = np.abs(np.fft.rfft(sound)) ** 2
    lowest, inside = power[100:121].sum(), power[430:451].sum()
    # The fundamental was 16 times as strong as the fourth overtone; the line takes it away.
    assert lowest < inside


def test_nobody_speaking_is_quiet_unless_it_is_noisy() -> None:
    nobody = np.zeros(RATE, dtype=np.int16)
    for seed in range(6):
        for condition in CONDITIONS:
            sound, _ = soundfile.read(BytesIO(heard(condition, seed, nobody)))
            assert np.abs(sound).max() < (1.01 if condition == "noisy" else 0.1)


def test_the_same_numbers_make_the_same_file() -> None:
    assert heard("noisy", 3) == heard("noisy", 3) != heard("noisy", 4)
