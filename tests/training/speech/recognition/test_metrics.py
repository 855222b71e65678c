import pytest

from training.speech.dataset import SpeechFile
from training.speech.recognition.metrics import count_errors, measure, version_metrics
from training.speech.recognition.predict import Hypothesis
from training.speech.recognition.tables import speech_tables


def heard(said: str, text: str, letters: str, *traits: str) -> tuple[SpeechFile, Hypothesis]:
    return SpeechFile("a.wav", b"", said, traits), Hypothesis(text, letters, (0.9,))


def test_errors_are_counted_as_by_hand() -> None:
    errors, taken = count_errors(
        "please turn on the kitchen light now", "please turn off kitchen light now thanks"
    )
    assert (errors.substituted, errors.missing, errors.added) == (1, 1, 1)
    assert errors.rate == pytest.approx(3 / 7)
    assert taken == [("on", "off")]
    assert count_errors("One TWO", "one two")[0].right_files == 1
    assert count_errors("one", "")[0].rate == 1.0
    assert count_errors("", "one two")[0].added == 2


def test_rates_are_over_all_words_and_by_condition() -> None:
    figures = measure(
        [
            heard("a b c d", "a b c d", "a b c", "condition: clean", "voice: x"),
            heard("a b", "a x", "a x y", "condition: noisy", "voice: x"),
            heard("b", "x", "b", "condition: noisy", "voice: z"),
        ]
    )
    assert figures.whole.searched.rate == pytest.approx(2 / 7)
    assert figures.whole.letters.rate == pytest.approx(3 / 7)
    assert figures.whole.searched.right_files == 1
    assert figures.slices["voice: x"].searched.rate == pytest.approx(1 / 6)
    assert figures.mistakes == (("b", "x", 2),)
    assert version_metrics(figures) == pytest.approx(
        {
            "word_error_rate": 2 / 7,
            "greedy_word_error_rate": 3 / 7,
            "clean_word_error_rate": 0.0,
            "clean_greedy_word_error_rate": 1 / 4,
            "noisy_word_error_rate": 2 / 3,
            "noisy_greedy_word_error_rate": 2 / 3,
        }
    )


def test_tables_hold_every_slice() -> None:
    told = speech_tables(
        measure(
            [
                heard("a b", "a c", "a b", "condition: clean", "voice: x", "room: hall"),
                heard("a b", "a b", "a b", "condition: noisy", "voice: x", "room: hall"),
            ]
        )
    )
    assert "| clean | 1 | 2 | 50.00% | 0.00% | 0.00% | 1 | 0 | 0 |" in told
    assert "| everything | 2 | 4 | 25.00% | 0.00% | 50.00% | 1 | 0 | 0 |" in told
    assert "| voice | files" in told and "| room | files" in told
    assert "b → c (1)" in told
