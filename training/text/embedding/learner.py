"""The text encoder while it learns to put a query next to its document.

Letters in shapes: `B` batch, `T` tokens, `D` dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.nn import functional

from training.images.learner import make_optimiser
from training.networks.text_encoder import TextEncoder
from training.recipes.text_recipes import TextEmbeddingRecipe

Batch = Sequence[torch.Tensor]
_PARTS = 6


class PairLearner(LightningModule):
    """A text encoder with what it takes to train it; a checkpoint can be exported by itself.

    Args:
        recipe: As `TextEmbeddingRecipe.model_dump(mode="json")` gives it.
        tokenizer: The tokenizer's JSON.
        vocabulary: Its tokens, padding included.
        steps: Optimiser steps of the whole training.
    """

    def __init__(self, recipe: dict[str, Any], tokenizer: str, vocabulary: int, steps: int) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.recipe = TextEmbeddingRecipe.model_validate(recipe)
        self.tokenizer = tokenizer
        self.graph = TextEncoder(self.recipe.network, vocabulary)
        self.sharpness = nn.Parameter(torch.tensor(1 / self.recipe.contrast.temperature).log())
        self._steps = steps

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        """Learn from queries and documents, ids and mask i64 [B, T] of each."""
        # Tokens that are dropped depend on the step alone, so that a resumed run goes on as it would have.
        torch.manual_seed((self.recipe.seed << 32) + self.global_step)
        loss, _ = self._compare(batch)
        self.log("train_loss", loss, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(batch[0]))
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Measure how many queries find their document in the batch."""
        loss, right = self._compare(batch)
        self.log("validation_loss", loss, prog_bar=True, batch_size=len(batch[0]))
        self.log("validation_found", right, prog_bar=True, batch_size=len(batch[0]))

    def configure_optimizers(self) -> Any:
        """Make AdamW and its schedule."""
        return make_optimiser(self, self.recipe.optimisation, self._steps)

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
    """Encode texts in a few parts, each as wide as its longest text, which saves most of the padding.

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
    """Compare every query with every document of the batch, both ways.

    The loss is that of A. van den Oord et al., Representation Learning with Contrastive Predictive Coding,
    2018 (arXiv:1807.03748, equation 4), over cosines; on prefixes as well it makes A. Kusupati et al.,
    Matryoshka Representation Learning, 2022 (arXiv:2205.13147, equation 1).

    Args:
        queries: f32 [B, D].
        documents: f32 [B, D], the first belongs to the first query and so on.
        sharpness: What cosines are multiplied with.

    Returns:
        The loss, and the share of queries whose own document is the nearest.
    """
    cosines = functional.normalize(queries, dim=1) @ functional.normalize(documents, dim=1).T
    own = torch.arange(len(cosines))
    scores = cosines * sharpness
    loss = (functional.cross_entropy(scores, own) + functional.cross_entropy(scores.T, own)) / 2
    return loss, (cosines.argmax(dim=1) == own).float().mean()
