"""A small network over the bytes of a text, from token ids to probabilities.

Every position looks up the byte n-grams that end there, in tables of hashed n-grams: bags of hashed n-grams
are from P. Bojanowski et al., Enriching Word Vectors with Subword Information, 2016 (arXiv:1607.04606,
section 3.2); their sum at each byte as input of a further network is from A. Pagnoni et al., Byte Latent
Transformer, 2024 (arXiv:2412.09871, section 3.2.1). Two convolutions and pooling follow.

Token 0 is padding, and so is every position that the mask marks with 0: ids there count as 0, and features
are set to 0 before every convolution and left out of the pooling, so that padding never changes an answer.

Letters in shapes: `N` batch, `T` bytes, `D` width, `C` channels, `K` classes.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from training.recipes.text_recipe import ByteNetworkSize

BYTE_TOKENS = 257  # padding, then one token a byte
_MULTIPLIERS = (1, 1_000_003, 65_599, 2_654_435, 40_503, 7_368_787)  # of the hash; any odd numbers work
_LONGEST = len(_MULTIPLIERS)
_NEVER = -1e4  # lower than every feature


class ByteNGrams(nn.Module):
    """Embeds each byte as the sum of its own embedding and those of the n-grams that end with it."""

    def __init__(self, size: ByteNetworkSize) -> None:
        super().__init__()
        self.buckets = size.buckets
        self.bytes = nn.Embedding(BYTE_TOKENS, size.width)
        self.n_grams = nn.ModuleList(nn.Embedding(rows, size.width) for rows in size.buckets)
        for weight in self.parameters():
            nn.init.normal_(weight, std=0.3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Embed i64 [N, T], 0 for padding; return f32 [N, T, D]."""
        total = self.bytes(ids)
        key = ids
        for back, (table, rows) in enumerate(zip(self.n_grams, self.buckets, strict=True), start=1):
            earlier = functional.pad(ids, (back, 0))[:, : ids.shape[1]]  # the byte `back` positions before
            key = key + earlier * _MULTIPLIERS[back % _LONGEST]
            total = total + table(key % rows)
        summed: torch.Tensor = total
        return summed


class ByteClassifier(nn.Module):
    """The exported graph: ids and mask in, probabilities out.

    Attributes:
        temperature: f32 scalar by which logits are divided to calibrate the probabilities (C. Guo et al.
            2017, arXiv:1706.04599, section 4.2); found after the training.
    """

    def __init__(self, classes: int, size: ByteNetworkSize) -> None:
        super().__init__()
        self.embed = ByteNGrams(size)
        self.first = nn.Conv1d(size.width, size.channels, size.kernel, padding="same")
        self.second = nn.Conv1d(size.channels, size.channels, size.kernel, padding="same")
        self.head = nn.Sequential(
            nn.LayerNorm(2 * size.channels), nn.Dropout(size.dropout), nn.Linear(2 * size.channels, classes)
        )
        self.register_buffer("temperature", torch.ones(()))

    def logits(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the logits.

        Args:
            input_ids: i64 [N, T].
            attention_mask: i64 [N, T], 1 for bytes and 0 for padding.

        Returns:
            f32 [N, K].
        """
        ids = input_ids * attention_mask
        mask = attention_mask.unsqueeze(1).to(torch.float32)  # [N, 1, T]
        features = self.embed(ids).transpose(1, 2) * mask  # [N, D, T]
        features = functional.gelu(self.first(features)) * mask  # [N, C, T]
        features = features + functional.gelu(self.second(features)) * mask
        mean = features.sum(dim=2) / mask.sum(dim=2).clamp(min=1)  # [N, C]
        highest = (features + (1 - mask) * _NEVER).amax(dim=2)
        scores: torch.Tensor = self.head(torch.cat([mean, highest], dim=1))
        return scores

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Classify i64 [N, T] and i64 [N, T]; return probabilities f32 [N, K]."""
        scores = self.logits(input_ids, attention_mask)
        return (scores / self.get_buffer("temperature")).softmax(dim=1)
