"""Padding must not change an answer: each text network, alone and in a padded batch."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from training.networks.byte_classifier import BYTE_TOKENS, ByteClassifier
from training.networks.text_encoder import LONGEST, Table, TextEncoder, share_of_repeated
from training.recipes.text_recipe import ByteNetworkSize, TextEncoderSize
from training.text.tokens import Ids, pad
from training.text.version import extreme_rows

SIZE = TextEncoderSize(vocabulary=400, width=16, heads=2, layers=2, dimensions=32, prefixes=(8,))


def network_answers(network: nn.Module, ids: Ids, mask: Ids) -> NDArray[np.float32]:
    with torch.inference_mode():
        return cast(NDArray[np.float32], network(torch.from_numpy(ids), torch.from_numpy(mask)).numpy())


def byte_classifier() -> nn.Module:
    torch.manual_seed(0)
    return ByteClassifier(3, ByteNetworkSize(buckets=(50, 60, 70), width=8, channels=12, kernel=5)).eval()


def text_encoder() -> TextEncoder:
    """An encoder in which everything takes part: nothing starts at zero."""
    torch.manual_seed(0)
    encoder = TextEncoder(SIZE, 400)
    for layer in (encoder.token_weight, encoder.change, encoder.add):
        nn.init.normal_(layer.weight)
    return encoder.eval()


def quantised_encoder() -> TextEncoder:
    return text_encoder().quantise().eval()


NETWORKS = [byte_classifier, text_encoder, quantised_encoder]


@pytest.mark.parametrize("make", NETWORKS)
def test_a_text_alone_gets_the_answer_it_gets_in_a_padded_batch(make: object) -> None:
    network = make()  # type: ignore[operator]
    rows = [*extreme_rows(BYTE_TOKENS, 300), np.arange(5, 40)]
    together = network_answers(network, *pad(rows))
    alone = np.concatenate([network_answers(network, *pad([row])) for row in rows])
    np.testing.assert_allclose(together, alone, atol=2e-6)


@pytest.mark.parametrize("make", NETWORKS)
def test_what_stands_under_the_padding_does_not_matter(make: object) -> None:
    network = make()  # type: ignore[operator]
    ids, mask = pad([np.arange(5, 40), np.arange(9, 21)])
    rubbish = np.where(mask == 1, ids, 77)
    np.testing.assert_array_equal(
        network_answers(network, ids, mask), network_answers(network, rubbish, mask)
    )


@pytest.mark.parametrize("make", NETWORKS)
def test_a_row_of_nothing_but_padding_gives_finite_numbers(make: object) -> None:
    network = make()  # type: ignore[operator]
    ids, mask = np.zeros((2, 5), np.int64), np.zeros((2, 5), np.int64)
    assert np.isfinite(network_answers(network, ids, mask)).all()


def test_probabilities_add_up_to_one_and_embeddings_have_length_one() -> None:
    ids, mask = pad(extreme_rows(BYTE_TOKENS, 300))
    np.testing.assert_allclose(network_answers(byte_classifier(), ids, mask).sum(axis=1), 1, atol=1e-5)
    for encoder in (text_encoder(), quantised_encoder()):
        lengths = np.linalg.norm(network_answers(encoder, ids, mask), axis=1)
        np.testing.assert_allclose(lengths, 1, atol=1e-5)


def test_the_order_of_bytes_and_of_tokens_matters() -> None:
    forwards, backwards = np.arange(5, 40)[None], np.arange(5, 40)[::-1].copy()[None]
    mask = np.ones_like(forwards)
    for network in (byte_classifier(), text_encoder()):
        answers = (network_answers(network, ids, mask) for ids in (forwards, backwards))
        assert np.abs(np.subtract(*answers)).max() > 1e-3


def test_tables_of_bytes_answer_nearly_as_those_of_floats_do() -> None:
    ids, mask = pad(extreme_rows(400, 300))
    floats, rounded = (
        network_answers(text_encoder(), ids, mask),
        network_answers(quantised_encoder(), ids, mask),
    )
    assert (floats * rounded).sum(axis=1).min() > 0.999


def test_texts_longer_than_the_positions_are_taken() -> None:
    row = np.ones(LONGEST + 10, np.int64)
    assert np.isfinite(network_answers(text_encoder(), *pad([row]))).all()


def test_learning_adds_up_rows_as_the_exported_graph_does() -> None:
    table = Table(20, 8, 1.0)
    index, weights = torch.tensor([[1, 5, 9], [2, 2, 0]]), torch.rand(2, 3)
    quick = table.weighted_sum(index, weights)
    slow = (table(index) * weights.unsqueeze(2)).sum(dim=1)
    torch.testing.assert_close(quick, slow)


def test_a_token_that_is_repeated_counts_less_each_time() -> None:
    ids = torch.tensor([[5, 6, 5, 5], [5, 6, 0, 0]])
    mask = torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0]])
    shares = share_of_repeated(ids, mask)
    expected = (1 + np.log(3)) / 3
    np.testing.assert_allclose(shares[0], [expected, 1, expected, expected], atol=1e-6)
    np.testing.assert_allclose(shares[1, :2], [1, 1], atol=1e-6)
