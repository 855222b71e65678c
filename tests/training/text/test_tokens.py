from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer

from training.text.tokens import PADDING, byte_tokenizer, pad, train_tokenizer

ODD_TEXTS = [
    "plain",
    "a\0b",
    "🙂🚲",
    "日本語のテキスト",
    "שלום עולם",
    "e\u0301 combining",
    f"{PADDING} x",
    "\t\n ",
    "\U0010ffff",
]


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train_tokenizer(["the cat sat on the mat", "libfoo2 is a library", "Ünïcode"] * 20, 320)


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_every_byte_is_one_token_and_comes_back(text: str) -> None:
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode(text).ids
    assert len(ids) == len(text.encode())
    assert all(1 <= number <= 256 for number in ids)
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("text", [text for text in ODD_TEXTS if text.strip()])
def test_no_text_has_the_token_of_padding(trained: Tokenizer, text: str) -> None:
    ids = trained.encode(text).ids
    assert ids
    assert 0 not in ids


def test_the_trained_tokenizer_does_not_mind_case_and_keeps_to_its_size(trained: Tokenizer) -> None:
    assert trained.encode("The CAT").ids == trained.encode("the cat").ids
    assert trained.get_vocab_size() <= 320
    assert trained.token_to_id(PADDING) == 0


def test_a_tokenizer_is_the_same_after_a_file(trained: Tokenizer) -> None:
    again = Tokenizer.from_str(trained.to_str())
    assert again.encode("the mat, libfoo2").ids == trained.encode("the mat, libfoo2").ids


def test_rows_are_padded_with_0_and_cut() -> None:
    ids, mask = pad([[3, 4, 5], [6]], most=2)
    np.testing.assert_array_equal(ids, [[3, 4], [6, 0]])
    np.testing.assert_array_equal(mask, [[1, 1], [1, 0]])
