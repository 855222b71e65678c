"""Pairs of texts, from a table to tokens, and the tokenizer that is trained on the training part."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from training.data.split import grouped_parts
from training.errors import DataRejected
from training.recipes.text_recipe import TextEmbeddingRecipe
from training.text.dataset import TextData, TextPairs, read_pairs
from training.text.tokens import Ids, train_tokenizer

_LEAST_WEIGHT = 0.2  # of a token that is in every text
_SENTENCE_END = re.compile(r"(?<=[.!?:])\s+|\n")


PairData = TextData[TextPairs]


@dataclass(frozen=True, slots=True)
class TokenPairs:
    """Pairs as token ids.

    Attributes:
        queries: M rows of ids.
        documents: M lists of sentences, each a row of ids.
        groups: i64 [M], the number of the group.
    """

    queries: list[Ids]
    documents: list[list[Ids]]
    groups: NDArray[np.int64]


def open_pairs(recipe: TextEmbeddingRecipe) -> PairData:
    """Read the recipe's pairs and divide them by group.

    Raises:
        DataRejected: The test part has too few pairs.
    """
    table = read_pairs(recipe.data)
    parts = grouped_parts(table.groups, recipe.split)
    if len(parts.test) < recipe.candidates:
        raise DataRejected(
            f"{len(parts.test)} pairs are held out, {recipe.candidates} are wanted: "
            "raise split.test or lower candidates"
        )
    kept = "by group" if recipe.data.group else "pair by pair"
    split = f"{kept}, {recipe.split.test:.1%} for testing, seed {recipe.split.seed}"
    return PairData(table, parts, split)


def make_tokenizer(recipe: TextEmbeddingRecipe, data: PairData) -> Tokenizer:
    """Train a tokenizer on the training part."""
    table = data.table
    texts = (text for i in data.parts.train.tolist() for text in (table.queries[i], table.documents[i]))
    return train_tokenizer(texts, recipe.network.vocabulary)


def tokenize(tokenizer: Tokenizer, table: TextPairs, part: NDArray[np.int64]) -> TokenPairs:
    """Return a part's texts as token ids, documents sentence by sentence."""
    sentences = [split_sentences(table.documents[i]) for i in part.tolist()]
    flat = iter(_ids(tokenizer, [text for document in sentences for text in document]))
    documents = [[next(flat) for _ in document] for document in sentences]
    _, groups = np.unique(np.array([table.groups[i] for i in part.tolist()]), return_inverse=True)
    queries = _ids(tokenizer, [table.queries[i] for i in part.tolist()])
    return TokenPairs(queries, documents, groups.astype(np.int64))


def split_sentences(text: str) -> list[str]:
    """Split a text at the ends of sentences and lines."""
    return [part for part in _SENTENCE_END.split(text) if part.strip()] or [text]


def document_frequencies(pairs: TokenPairs, vocabulary: int) -> torch.Tensor:
    """Return inverse document document_frequencies: the log of all texts by the texts with the token.

    Returns:
        f32 [V], all above 0.
    """
    counts = np.ones(vocabulary)
    for query, document in zip(pairs.queries, pairs.documents, strict=True):
        counts[np.unique(np.concatenate([query, *document]))] += 1
    weights = np.log(len(pairs.queries) / counts).clip(_LEAST_WEIGHT)
    return torch.from_numpy(weights).to(torch.float32)


def _ids(tokenizer: Tokenizer, texts: list[str]) -> list[Ids]:
    return [np.array(encoding.ids or [1], dtype=np.int64) for encoding in tokenizer.encode_batch(texts)]
