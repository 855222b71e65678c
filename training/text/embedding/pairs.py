"""Pairs of texts, from a table to tokens: opening, dividing, and the tokenizer of the training part."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from training.data.split import Parts, grouped_parts
from training.errors import DataRejected
from training.recipes.text_recipes import TextEmbeddingRecipe
from training.text.dataset import TextPairs, read_pairs
from training.text.tokens import Ids, train_tokenizer

_LEAST_WEIGHT = 0.2  # of a token that every text has
_SENTENCE_END = re.compile(r"(?<=[.!?:])\s+|\n")


@dataclass(frozen=True, slots=True)
class PairData:
    """The recipe's pairs and what each is for."""

    table: TextPairs
    parts: Parts


@dataclass(frozen=True, slots=True)
class TokenPairs:
    """Pairs as token ids.

    Attributes:
        queries: M rows of ids.
        documents: M lists of sentences, each a row of ids.
        groups: i64 [M], a number a group.
    """

    queries: list[Ids]
    documents: list[list[Ids]]
    groups: NDArray[np.int64]


def open_pairs(recipe: TextEmbeddingRecipe) -> PairData:
    """Read the recipe's pairs and divide them by group.

    Raises:
        DataRejected: There are too few held-out pairs.
    """
    table = read_pairs(recipe.data)
    parts = grouped_parts(table.groups, recipe.split)
    if len(parts.test) < recipe.candidates:
        raise DataRejected(
            f"{len(parts.test)} pairs are held out, {recipe.candidates} are wanted: "
            "raise split.test or lower candidates"
        )
    return PairData(table, parts)


def make_tokenizer(recipe: TextEmbeddingRecipe, data: PairData) -> Tokenizer:
    """Learn a tokenizer from the training part alone."""
    table = data.table
    texts = (text for i in data.parts.train.tolist() for text in (table.queries[i], table.documents[i]))
    return train_tokenizer(texts, recipe.network.vocabulary)


def tokenise(tokenizer: Tokenizer, table: TextPairs, part: NDArray[np.int64]) -> TokenPairs:
    """Turn a part's texts into ids, documents sentence by sentence."""
    sentences = [split_sentences(table.documents[i]) for i in part.tolist()]
    flat = iter(_ids(tokenizer, [text for document in sentences for text in document]))
    documents = [[next(flat) for _ in document] for document in sentences]
    _, groups = np.unique(np.array([table.groups[i] for i in part.tolist()]), return_inverse=True)
    queries = _ids(tokenizer, [table.queries[i] for i in part.tolist()])
    return TokenPairs(queries, documents, groups.astype(np.int64))


def split_sentences(text: str) -> list[str]:
    """Split at the ends of sentences and lines; a text without any is one sentence."""
    return [part for part in _SENTENCE_END.split(text) if part.strip()] or [text]


def frequencies(pairs: TokenPairs, vocabulary: int) -> torch.Tensor:
    """Weigh tokens by how few texts have them: the log of all texts over those with the token.

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
