import re
from collections import Counter

import numpy as np

from training.speech.synthetic.grammar import COMMANDS, KINDS, draw_sentence, respell, vocabulary
from training.speech.synthetic.unknown_words import unknown_words

SENTENCES = [draw_sentence(np.random.default_rng((1, number))) for number in range(8000)]


def test_sentences_are_lower_case_words_with_single_spaces() -> None:
    word = "[a-z]+('[a-z]+)?"
    assert all(re.fullmatch(f"{word}( {word})*", sentence.text) for sentence in SENTENCES)
    assert all(len(sentence.text.split()) <= 15 for sentence in SENTENCES)


def test_every_listed_word_is_said_often_enough_to_be_learnt_and_no_other() -> None:
    counts = Counter(word for sentence in SENTENCES for word in sentence.text.split())
    assert set(counts) == set(vocabulary())
    assert min(counts.values()) >= 3  # about 15 in as many sentences as are learnt from
    assert set(COMMANDS) <= set(vocabulary())


def test_all_kinds_of_sentences_are_drawn() -> None:
    shares = Counter(sentence.kind for sentence in SENTENCES)
    assert set(shares) == set(KINDS)
    assert min(shares.values()) > 0.1 * len(SENTENCES)


def test_numbers_to_999_are_written_out_with_and_without_and() -> None:
    numbers = {sentence.text for sentence in SENTENCES if sentence.kind == "number"}
    assert any(re.fullmatch(r"\w+ hundred and \w+( \w+)?", number) for number in numbers)
    assert any(re.fullmatch(r"\w+ hundred (?!and)\w+( \w+)?", number) for number in numbers)
    assert not any("zero" in number and number != "zero" for number in numbers)


def test_the_same_seed_draws_the_same_sentence() -> None:
    assert draw_sentence(np.random.default_rng(5)) == draw_sentence(np.random.default_rng(5))


def test_what_a_synthesiser_would_misread_is_respelt_and_nothing_else() -> None:
    assert respell("read it at nine a m") == "reed it at nine eigh em"
    assert respell("bread and jam") == "bread and jam"


def test_other_words_are_no_keywords_and_in_one_part_only() -> None:
    parts = [set(unknown_words(part)) for part in ("train", "validation", "test")]
    assert all(len(part) > 100 and not part & set(COMMANDS) for part in parts)
    assert sum(map(len, parts)) == len(set.union(*parts))
