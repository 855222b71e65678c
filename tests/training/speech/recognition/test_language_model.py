import itertools
import math
from pathlib import Path

import pytest

from training.speech.recognition.language_model import arpa, word_list

kenlm = pytest.importorskip("flashlight.lib.text.decoder.kenlm")
TEXTS = ["a b", "a b a", "c", "b a"]


def score(model: str, folder: Path, words: tuple[str, ...]) -> float:
    """Let KenLM score a sentence; gives its probability."""
    (folder / "words.arpa").write_text(model, encoding="utf-8")
    dictionary = pytest.importorskip("flashlight.lib.text.dictionary").Dictionary()
    for word in word_list(TEXTS):
        dictionary.add_entry(word)
    library = kenlm.KenLM(str(folder / "words.arpa"), dictionary)
    state, logarithm = library.start(False), 0.0
    for word in words:
        state, one = library.score(state, dictionary.get_index(word))
        logarithm += one
    return float(10 ** (logarithm + library.finish(state)[1]))


def test_words_are_listed_once_in_order() -> None:
    assert word_list(TEXTS) == ("a", "b", "c")


def test_a_pair_is_interpolated_as_by_hand(tmp_path: Path) -> None:
    # 4 ends, 4 a, 3 b and 1 c are 12 in all, of 4 kinds; with `<unk>` there are 5 to share 4 / 16.
    unigram = {"a": 4.8 / 16, "b": 3.8 / 16, "c": 1.8 / 16, "end": 4.8 / 16}
    # `<s>` stands before a, a, c, b: three kinds in four. `c` stands before the end, once.
    first = (1 + 3 * unigram["c"]) / 7
    last = (1 + 1 * unigram["end"]) / 2
    assert score(arpa(TEXTS, 2), tmp_path, ("c",)) == pytest.approx(first * last, rel=1e-3)
    unseen = 1 / 2 * unigram["b"]  # after `c`, of which only the end was seen
    after_b = (1 + 2 * unigram["end"]) / 5  # `b` stands before a, a and the end
    assert score(arpa(TEXTS, 2), tmp_path, ("c", "b")) == pytest.approx(first * unseen * after_b, rel=1e-3)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_probabilities_after_any_words_add_up_to_one(order: int) -> None:
    grams: dict[tuple[str, ...], tuple[float, float]] = {}
    for line in arpa(TEXTS, order).splitlines():
        cells = line.split("\t")
        if len(cells) > 1:
            weight = float(cells[2]) if len(cells) > 2 else 0.0
            grams[tuple(cells[1].split())] = (10 ** float(cells[0]), 10**weight)

    def probability(words: tuple[str, ...]) -> float:
        if words in grams:
            return grams[words][0]
        return grams.get(words[:-1], (0.0, 1.0))[1] * probability(words[1:])

    vocabulary = ("a", "b", "c", "</s>", "<unk>")
    histories = itertools.product(("<s>", "a", "b", "c"), repeat=order - 1)
    for history in histories:
        total = math.fsum(probability((*history, word)) for word in vocabulary)
        assert total == pytest.approx(1.0, abs=2e-3)
