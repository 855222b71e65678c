"""Metrics of retrieval: queries find documents by an exported version's vectors, and by TF-IDF.

Every test query is compared with every test document. A document's rank is the number of documents that are
nearer. Recall@k is the share of queries whose document has a rank below k.

Letters in shapes: `M` pairs, `D` dimensions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from service.repository.manifest import VersionFacts
from service.tasks.text.embedding import EmbeddingParameters, TextEmbedding, shorten_embedding
from training.core.session import open_version
from training.recipes.text_recipe import TextEmbeddingRecipe
from training.text.embedding.pairs import PairData
from training.text.predict import answer_texts

Ranks = NDArray[np.int64]
BASELINES = {
    "TF-IDF of words": {"analyzer": "word", "sublinear_tf": True},
    "TF-IDF of character n-grams": {"analyzer": "char_wb", "ngram_range": (3, 5), "sublinear_tf": True},
}
_QUERY_WORDS = ((1, 3), (4, 6), (7, 9), (10, 99))
_DOCUMENT_CHARACTERS = ((1, 199), (200, 399), (400, 799), (800, 10**9))
_KINDS = ("perl", "python", "haskell", "rust", "ruby", "java", "node", "development files", "documentation")


@dataclass(frozen=True, slots=True)
class Recall:
    """Recall@1 and recall@10."""

    items: int
    at_1: float
    at_10: float


@dataclass(frozen=True, slots=True)
class RetrievalEvaluation:
    """Metrics on the test part.

    Attributes:
        dimensions: Of the whole vector.
        by_dimensions: With a prefix of the vector, by its length; the whole vector first.
        baselines: The same pairs without a network, by name.
        slices: With the whole vector, by a property of the pairs.
    """

    dimensions: int
    by_dimensions: dict[int, Recall]
    baselines: dict[str, Recall]
    slices: dict[str, Recall]


def evaluate_pairs(
    folder: Path, facts: VersionFacts, data: PairData, recipe: TextEmbeddingRecipe
) -> RetrievalEvaluation:
    """Evaluate an exported version on the test part."""
    part = data.parts.test[: recipe.candidates].tolist()
    queries = [data.table.queries[i] for i in part]
    documents = [data.table.documents[i] for i in part]
    vectors = embed(folder, facts, queries + documents)
    dimensions = vectors.shape[1]
    ranks = {
        size: ranks_of(_prefix(vectors[: len(part)], size), _prefix(vectors[len(part) :], size))
        for size in (dimensions, *sorted(recipe.network.prefixes, reverse=True))
    }
    groups = [data.table.groups[i] for i in part]
    return RetrievalEvaluation(
        dimensions,
        {size: recall(found) for size, found in ranks.items()},
        {name: recall(found) for name, found in baseline_ranks(data, queries, documents).items()},
        _slices(ranks[dimensions], queries, documents, groups),
    )


def embed(folder: Path, facts: VersionFacts, texts: list[str]) -> NDArray[np.float32]:
    """Embed raw texts with an exported version; return f32 [M, D]."""
    task, run = open_version(folder, TextEmbedding, facts)
    results = answer_texts(task, run, texts, EmbeddingParameters(truncate=True))
    return np.stack([cast(NDArray[np.float32], result["embedding"]) for result in results])


def baseline_ranks(data: PairData, queries: list[str], documents: list[str]) -> dict[str, Ranks]:
    """Return the ranks by TF-IDF, whose document frequencies come from the training part."""
    table = data.table
    known = [text for i in data.parts.train.tolist() for text in (table.queries[i], table.documents[i])]
    ranks = {}
    for name, settings in BASELINES.items():
        vectoriser = TfidfVectorizer(**settings, min_df=2, dtype=np.float32).fit(known)
        cosines = vectoriser.transform(queries) @ vectoriser.transform(documents).T
        ranks[name] = _ranks(cosines.toarray())
    return ranks


def ranks_of(queries: NDArray[np.float32], documents: NDArray[np.float32]) -> Ranks:
    """Return the rank of each query's document.

    Args:
        queries: f32 [M, D], each of length 1.
        documents: f32 [M, D], in the order of the queries.

    Returns:
        i64 [M]: number of other documents that are at least as near.
    """
    return _ranks(queries @ documents.T)


def recall(ranks: Ranks) -> Recall:
    """Return recall@1 and recall@10."""
    return Recall(len(ranks), float((ranks < 1).mean()), float((ranks < 10).mean()))


def _ranks(cosines: NDArray[np.float32]) -> Ranks:
    own = np.diag(cosines)[:, None]
    ranks: Ranks = (cosines >= own).sum(axis=1).astype(np.int64) - 1
    return ranks


def _prefix(vectors: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    return np.stack([shorten_embedding(vector, size) for vector in vectors])


def _slices(ranks: Ranks, queries: list[str], documents: list[str], groups: list[str]) -> dict[str, Recall]:
    members = Counter(groups)
    alone = np.array([members[group] == 1 for group in groups])
    words = np.array([len(query.split()) for query in queries])
    characters = np.array([len(document) for document in documents])
    chosen: dict[str, NDArray[np.bool_]] = {
        "the only one of its group": alone,
        "others of its group among the documents": ~alone,
    }
    for low, high in _QUERY_WORDS:
        name = f"queries of {low} to {high} words" if high < 99 else f"queries of {low} words and more"
        chosen[name] = (words >= low) & (words <= high)
    for low, high in _DOCUMENT_CHARACTERS:
        end = f"to {high} characters" if high < 10**9 else "characters and more"
        chosen[f"documents of {low} {end}"] = (characters >= low) & (characters <= high)
    for kind in _KINDS:
        chosen[f"queries with “{kind}”"] = np.array([kind in query.lower() for query in queries])
    return {name: recall(ranks[mask]) for name, mask in chosen.items() if mask.any()}
