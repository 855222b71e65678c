"""A small text encoder, from token ids to a vector of length 1, trainable on a CPU in minutes.

The vector of a text is the weighted mean of its tokens' vectors, as in TF-IDF but with trained vectors
instead of one axis per token. A token's weight starts as its inverse document frequency, and a token that
occurs c times counts 1 + log c times (C. Manning, P. Raghavan, H. Schütze, Introduction to Information
Retrieval, 2008, sections 6.2.1 and 6.4.1). A narrow Transformer encoder (A. Vaswani et al. 2017,
arXiv:1706.03762; normalisation first as in R. Xiong et al. 2020, arXiv:2002.04745) reads the tokens in
context; it changes their weights and adds a vector.

The mask is used in attention, counts and means, so that padding never changes an answer.

Letters in shapes: `N` batch, `T` tokens, `V` vocabulary, `W` width of the Transformer, `D` dimensions.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from training.recipes.text_recipe import TextEncoderSize

LONGEST = 512  # positions; later tokens share the last
_NEVER = -1e9


class Table(nn.Module):
    """A lookup table: floats in training, and int8 with one scale per row after `quantise`."""

    def __init__(self, rows: int, width: int, deviation: float) -> None:
        super().__init__()
        self.weight: nn.Parameter | None = nn.Parameter(torch.randn(rows, width) * deviation)
        self.register_buffer("bytes", None)
        self.register_buffer("scales", None)

    def quantise(self) -> None:
        """Round each row to 255 steps, as in the exported graph."""
        assert self.weight is not None, "quantised once"
        rows = self.weight.detach()
        scales = rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-8) / 127
        self.bytes = (rows / scales).round().to(torch.int8)
        self.scales = scales
        self.weight = None

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        """Look up i64 [N, T]; return f32 [N, T, width]."""
        if self.weight is not None:
            return functional.embedding(index, self.weight)
        return self.get_buffer("bytes")[index].to(torch.float32) * self.get_buffer("scales")[index]

    def weighted_sum(self, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return the weighted sum of rows: i64 [N, T] and f32 [N, T] to f32 [N, width]."""
        if self.weight is not None:
            # The same without an intermediate [N, T, width]; the exporter does not support it.
            return functional.embedding_bag(index, self.weight, per_sample_weights=weights, mode="sum")
        return torch.matmul(weights.unsqueeze(1), self(index)).squeeze(1)


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward network, each with residual connection and normalisation first."""

    def __init__(self, size: TextEncoderSize) -> None:
        super().__init__()
        self.heads = size.heads
        self.before_attention = nn.LayerNorm(size.width)
        self.query_key_value = nn.Linear(size.width, 3 * size.width)
        self.mix = nn.Linear(size.width, size.width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(size.width),
            nn.Linear(size.width, 2 * size.width),
            nn.GELU(),
            nn.Linear(2 * size.width, size.width),
        )

    def forward(self, tokens: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Transform f32 [N, T, W]; `bias` f32 [N, 1, 1, T] is far below 0 where there is no token."""
        items, length, width = tokens.shape
        parts = self.query_key_value(self.before_attention(tokens))
        query, key, value = (
            part.view(items, length, self.heads, width // self.heads).transpose(1, 2)
            for part in parts.chunk(3, dim=2)
        )  # [N, heads, T, W / heads] each
        scores = query @ key.transpose(2, 3) * (width // self.heads) ** -0.5 + bias
        mixed = (scores.softmax(dim=3) @ value).transpose(1, 2).reshape(items, length, width)
        tokens = tokens + self.mix(mixed)
        added: torch.Tensor = tokens + self.feed_forward(tokens)
        return added


class TextEncoder(nn.Module):
    """The exported graph: ids and mask in, a vector of length 1 out.

    Args:
        size: Size of the network.
        vocabulary: V, padding included.
    """

    def __init__(self, size: TextEncoderSize, vocabulary: int) -> None:
        super().__init__()
        self.dropped = size.dropout
        self.vectors = Table(vocabulary, size.dimensions, 2 * size.dimensions**-0.5)
        self.token_weight = nn.Embedding(vocabulary, 1)
        self.position_weight = nn.Embedding(LONGEST, 1)
        self.end_weight = nn.Embedding(LONGEST, 1)
        self.token = Table(vocabulary, size.width, 0.5)
        self.position = nn.Embedding(LONGEST, size.width)
        self.end = nn.Embedding(LONGEST, size.width)
        self.layers = nn.ModuleList(EncoderLayer(size) for _ in range(size.layers))
        self.change = nn.Linear(size.width, 1)
        self.add = nn.Linear(size.width, size.dimensions)
        for places in (self.position, self.end):
            nn.init.normal_(places.weight, std=0.1)
        for weights in (self.token_weight.weight, self.end_weight.weight, *self.change.parameters()):
            nn.init.zeros_(weights)
        nn.init.normal_(self.add.weight, std=1e-3)
        nn.init.zeros_(self.add.bias)
        with torch.no_grad():  # the beginning of a text matters more
            self.position_weight.weight.copy_(-0.006 * torch.arange(LONGEST).unsqueeze(1))

    def start_weights(self, frequencies: torch.Tensor) -> None:
        """Initialise token weights with inverse document frequencies f32 [V], scaled to a mean of 1."""
        with torch.no_grad():
            self.token_weight.weight.copy_((frequencies / frequencies.mean()).log().unsqueeze(1))

    def quantise(self) -> TextEncoder:
        """Round all tables to int8; the network cannot be trained after that."""
        for module in self.modules():
            if isinstance(module, Table):
                module.quantise()
        return self

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Encode texts.

        Args:
            input_ids: i64 [N, T].
            attention_mask: i64 [N, T], 1 for tokens and 0 for padding.

        Returns:
            f32 [N, D], each row of length 1.
        """
        ids = input_ids * attention_mask
        mask = attention_mask.to(torch.float32)  # [N, T]
        if self.training and self.dropped:
            kept = torch.rand_like(mask) >= self.dropped
            kept[:, 0] = True
            mask = mask * kept
        places = torch.arange(ids.shape[1], device=ids.device)
        # The end of a text can matter as much as its beginning.
        from_end = (attention_mask.sum(dim=1, keepdim=True) - 1 - places).clamp(0, LONGEST - 1)  # [N, T]
        places = places.clamp(max=LONGEST - 1)
        tokens = self.token(ids) + self.position(places) + self.end(from_end)
        context = self._context(tokens, mask)  # [N, T, W]
        logs = self.token_weight(ids) + self.position_weight(places) + self.end_weight(from_end)
        logs = logs + self.change(context)
        weights = torch.exp(logs.squeeze(2)) * mask * share_of_repeated(ids, mask)  # [N, T]
        weights = weights / mask.sum(dim=1, keepdim=True).clamp(min=1)
        understood = torch.matmul(weights.unsqueeze(1), context).squeeze(1)  # [N, W]
        mean = self.vectors.weighted_sum(ids, weights) + self.add(understood)
        return functional.normalize(mean, dim=1)

    def _context(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        bias = ((1 - mask) * _NEVER)[:, None, None, :]
        for layer in self.layers:
            tokens = layer(tokens, bias)
        return tokens


def share_of_repeated(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return factors with which a token that occurs c times in a text counts 1 + log c times in all.

    Args:
        ids: i64 [N, T].
        mask: f32 [N, T].

    Returns:
        f32 [N, T], 1 for a token that occurs once.
    """
    same = (ids.unsqueeze(2) == ids.unsqueeze(1)).to(torch.float32)  # [N, T, T]
    count = torch.matmul(same, mask.unsqueeze(2)).squeeze(2).clamp(min=1)
    return (1 + count.log()) / count
