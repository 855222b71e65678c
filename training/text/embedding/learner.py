"""The training module of the text encoder: a query's vector moves next to its document's vector.

Letters in shapes: `B` batch, `T` tokens, `D` dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from training.core.learner import Batch, Learner
from training.networks.text_encoder import TextEncoder
from training.recipes.text_recipe import TextEmbeddingRecipe

_PARTS = 6


class TextEncoderLearner(Learner[TextEmbeddingRecipe, TextEncoder]):
    """A text encoder with everything that its training needs.

    Args:
        recipe: The recipe as plain values, from `TextEmbeddingRecipe.model_dump(mode="json")`.
        tokenizer: The tokenizer's JSON.
        vocabulary: Number of its tokens, padding included.
        steps: Optimizer steps of the whole training.
    """

    def __init__(self, recipe: dict[str, Any], tokenizer: str, vocabulary: int, steps: int) -> None:
        checked = TextEmbeddingRecipe.model_validate(recipe)
        super().__init__(checked, TextEncoder(checked.network, vocabulary), steps)
        self.save_hyperparameters()
        self.tokenizer = tokenizer
        self.sharpness = nn.Parameter(torch.tensor(1 / checked.contrast.temperature).log())

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        """Return the loss on queries and documents, ids and mask i64 [B, T] of each."""
        torch.manual_seed(self.step_seed())  # of the token dropout
        loss, _ = self._compare(batch)
        self.log_training(len(batch[0]), {"loss": loss})
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Measure how many queries find their document in the batch."""
        loss, right = self._compare(batch)
        self.log_validation(len(batch[0]), {"loss": loss, "found": right})

    def _compare(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        query, query_mask, document, document_mask = batch
        queries = self.graph(query, query_mask)
        documents = encode_by_length(self.graph, document, document_mask)
        sharpness = self.sharpness.exp()
        loss, right = contrast(queries, documents, sharpness)
        for prefix in self.recipe.network.prefixes:
            of_prefix, _ = contrast(queries[:, :prefix], documents[:, :prefix], sharpness)
            loss = loss + self.recipe.contrast.prefix_weight * of_prefix
        return loss, right


def encode_by_length(
    network: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], ids: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Encode texts in a few parts of similar length, which saves most of the padding.

    Args:
        network: Takes ids and mask.
        ids: i64 [B, T].
        mask: i64 [B, T].

    Returns:
        f32 [B, D], in the order of the texts.
    """
    lengths = mask.sum(dim=1)
    order = lengths.argsort(stable=True)
    rows = [
        network(ids[part, : int(lengths[part].max())], mask[part, : int(lengths[part].max())])
        for part in order.chunk(_PARTS)
    ]
    return torch.cat(rows)[order.argsort()]


def contrast(
    queries: torch.Tensor, documents: torch.Tensor, sharpness: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compare every query with every document of the batch, in both directions.

    The loss is InfoNCE (A. van den Oord et al., 2018, arXiv:1807.03748, equation 4) over cosines. With the
    same loss on prefixes it is Matryoshka Representation Learning (A. Kusupati et al., 2022,
    arXiv:2205.13147, equation 1).

    Args:
        queries: f32 [B, D].
        documents: f32 [B, D], in the order of the queries.
        sharpness: Factor of the cosines, the inverse of the temperature.

    Returns:
        The loss, and the share of queries whose own document is the nearest.
    """
    cosines = functional.normalize(queries, dim=1) @ functional.normalize(documents, dim=1).T
    own = torch.arange(len(cosines))
    scores = cosines * sharpness
    loss = (functional.cross_entropy(scores, own) + functional.cross_entropy(scores.T, own)) / 2
    return loss, (cosines.argmax(dim=1) == own).float().mean()
