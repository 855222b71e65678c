"""Batches of pairs; a batch depends only on its number, the seed and the network at the start of its epoch.

A pair's query must find its document among those of its batch. Which pairs share a batch determines the
difficulty: random pairs, pairs of the same group, or pairs whose documents have similar vectors (hard
negatives).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from training.recipes.text_recipe import Contrast
from training.text.embedding.pairs import TokenPairs
from training.text.tokens import Ids, pad

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
Vectors = NDArray[np.float32]
_SHORTEST_QUERY = 4  # tokens
_CLUSTER = 16  # documents per cluster of similar ones
_AT_ONCE = 4096  # documents per matrix product with the centres


class PairBatches(Dataset[Batch]):
    """Training batches by step number.

    Args:
        pairs: The training pairs.
        contrast: Settings of the recipe.
        batch_size: Pairs of a batch.
        seed: Seed of every choice.
        encode: Returns the network's present vectors, f32 [M, D] of length 1, of M documents.
    """

    def __init__(
        self,
        pairs: TokenPairs,
        contrast: Contrast,
        *,
        batch_size: int,
        seed: int,
        encode: Callable[[list[Ids]], Vectors],
    ) -> None:
        self._pairs = pairs
        self._contrast = contrast
        self._batch_size = min(batch_size, len(pairs.queries))
        self._seed = seed
        self._encode = encode
        self._epoch = -1
        self._orders: list[NDArray[np.int64]] = []

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return len(self._pairs.queries) // self._batch_size

    def __getitem__(self, step: int) -> Batch:
        epoch, place = divmod(step, self.steps)
        if epoch != self._epoch:
            self._orders, self._epoch = self._arrange(epoch), epoch
        random = np.random.default_rng((self._seed, 1, step))
        settings = self._contrast
        kind = int(
            np.searchsorted(np.cumsum([settings.siblings, settings.alike]), random.random(), side="right")
        )
        order = self._orders[min(kind, len(self._orders) - 1)]
        members = order[place * self._batch_size : (place + 1) * self._batch_size]
        chosen = [self._pair(i, random) for i in members.tolist()]
        query, query_mask = pad([query for query, _ in chosen], settings.query_tokens)
        document, document_mask = pad([document for _, document in chosen], settings.document_tokens)
        arrays = (query, query_mask, document, document_mask)
        return tuple(torch.from_numpy(array) for array in arrays)  # type: ignore[return-value]

    def _pair(self, i: int, random: np.random.Generator) -> tuple[Ids, Ids]:
        query, sentences = self._pairs.queries[i], self._pairs.documents[i]
        if random.random() < self._contrast.pieces and len(sentences) > 1:
            place = int(random.integers(len(sentences)))
            if len(sentences[place]) >= _SHORTEST_QUERY:
                rest = sentences[:place] + sentences[place + 1 :]
                return sentences[place], np.concatenate(rest)
        return query, np.concatenate(sentences)

    def _arrange(self, epoch: int) -> list[NDArray[np.int64]]:
        """Return three orders of all pairs: by group, by similarity, random."""
        random = np.random.default_rng((self._seed, 0, epoch))
        by_group = _side_by_side(self._pairs.groups, random)
        shuffled = random.permutation(len(self._pairs.queries))
        if not (self._contrast.alike and epoch):  # an untrained network has no meaningful similarities
            return [by_group, shuffled, shuffled]
        vectors = self._encode([np.concatenate(sentences) for sentences in self._pairs.documents])
        return [by_group, _side_by_side(nearest_centres(vectors, random), random), shuffled]


def nearest_centres(vectors: Vectors, random: np.random.Generator) -> NDArray[np.int64]:
    """Choose random centres among vectors f32 [M, D]; return the nearest one's number for each, i64 [M]."""
    count = max(1, len(vectors) // _CLUSTER)
    centres = vectors[random.choice(len(vectors), count, replace=False)].T
    parts = [(vectors[i : i + _AT_ONCE] @ centres).argmax(axis=1) for i in range(0, len(vectors), _AT_ONCE)]
    return np.concatenate(parts)


def _side_by_side(groups: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    """Return an order of items that keeps groups together, with groups and members in random order."""
    place = random.permutation(int(groups.max()) + 1)
    order: NDArray[np.int64] = np.lexsort((random.random(len(groups)), place[groups]))
    return order
