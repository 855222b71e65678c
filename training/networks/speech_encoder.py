"""The speech network, from samples to log probabilities of letters, small enough to train on a CPU in hours.

Log-mel features, two strided convolutions and blocks after A. Gulati et al., Conformer, 2020
(arXiv:2005.08100): half a feed-forward layer, self-attention, a convolution over time and the other half,
each with a residual connection. Differences: LayerNorm replaces BatchNorm in the convolution, so that an item
does not depend on its batch, and there are no relative positions, because convolutions provide them. The loss
is connectionist temporal classification (A. Graves et al. 2006) over letters, in training also for a middle
block (J. Lee, S. Watanabe 2021, arXiv:2102.03216).

Padding is masked before every convolution and in attention, so that it never changes an answer.

Letters in shapes: `N` batch, `T` samples, `M` feature frames, `B` mel bands, `F` frames, `W` width,
`V` tokens.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from training.networks.log_mel import LogMel, mask_of
from training.recipes.speech_recipe import SpeechEncoderSize

SUBSAMPLING = 4
_NEVER = -1e4  # added to attention scores of padding
_FIRST_CHANNELS = 32


class SpeechEncoder(nn.Module):
    """The exported graph: samples in, log probabilities out.

    Args:
        size: Size of the network.
        sample_rate: Samples per second.
        tokens: V, the blank included.
    """

    def __init__(self, size: SpeechEncoderSize, sample_rate: int, tokens: int) -> None:
        super().__init__()
        self.log_mel = LogMel(sample_rate, size.mels, size.hop_seconds)
        self.subsample = Subsampling(size)
        self.blocks = nn.ModuleList(ConformerBlock(size) for _ in range(size.blocks))
        self.head = nn.Linear(size.width, tokens)
        self.frame_seconds = SUBSAMPLING * self.log_mel.hop / sample_rate

    def forward(self, audio: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log probabilities of tokens.

        Args:
            audio: f32 [N, T], -1 to 1; values beyond an item's length are ignored.
            lengths: i64 [N], samples.

        Returns:
            Log probabilities f32 [N, F, V], and the frames i64 [N] of each item; values beyond them are
            undefined.
        """
        features, frames = self.log_mel(audio, lengths)
        logits, _, frames = self.logits(features, frames)
        return functional.log_softmax(logits, dim=2), frames

    def logits(
        self, features: torch.Tensor, frames: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the logits of features f32 [N, B, M] and frames i64 [N].

        Returns:
            Logits f32 [N, F, V] of the last block, those of the middle one, and the frames i64 [N].
        """
        hidden, frames = self.subsample(features, frames)
        mask = mask_of(frames, hidden.shape[1]).to(hidden.dtype)  # [N, F]
        bias = ((1 - mask) * _NEVER)[:, None, None, :]
        mask = mask.unsqueeze(2)
        middle = hidden
        for number, block in enumerate(self.blocks, start=1):
            hidden = block(hidden, mask, bias)
            if number == (len(self.blocks) + 1) // 2:
                middle = hidden
        with torch.autocast("cpu", enabled=False):  # bfloat16 would round log probabilities to tenths
            return self.head(hidden.float()), self.head(middle.float()), frames


class Subsampling(nn.Module):
    """Two convolutions over bands and time, each with stride 2 in both."""

    def __init__(self, size: SpeechEncoderSize) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, _FIRST_CHANNELS, 3, 2, padding=1)
        self.second = nn.Conv2d(_FIRST_CHANNELS, _FIRST_CHANNELS, 3, 2, padding=1)
        self.out = nn.Linear(_FIRST_CHANNELS * -(-size.mels // SUBSAMPLING), size.width)
        self.norm = nn.LayerNorm(size.width)

    def forward(self, features: torch.Tensor, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Transform f32 [N, B, M], 0 for padding, and frames i64 [N]; return [N, F, W] and frames."""
        hidden = functional.relu(self.first(features.unsqueeze(1)))  # [N, C, B / 2, M / 2]
        frames = halved(frames)
        hidden = hidden * mask_of(frames, hidden.shape[3]).to(hidden.dtype)[:, None, None, :]
        hidden = functional.relu(self.second(hidden))  # [N, C, B / 4, F]
        return self.norm(self.out(hidden.permute(0, 3, 1, 2).flatten(2))), halved(frames)


def halved(frames: torch.Tensor) -> torch.Tensor:
    """Return the number of frames after a convolution with stride 2."""
    return torch.div(frames + 1, 2, rounding_mode="floor")


class ConformerBlock(nn.Module):
    """A Conformer block; see the module."""

    def __init__(self, size: SpeechEncoderSize) -> None:
        super().__init__()
        self.before = FeedForward(size)
        self.attention = Attention(size)
        self.convolution = Convolution(size)
        self.after = FeedForward(size)
        self.norm = nn.LayerNorm(size.width)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Transform [N, F, W]; for padding `mask` [N, F, 1] is 0 and `bias` [N, 1, 1, F] far below 0."""
        hidden = hidden + 0.5 * self.before(hidden)
        hidden = hidden + self.attention(hidden, bias)
        hidden = hidden + self.convolution(hidden, mask)
        hidden = hidden + 0.5 * self.after(hidden)
        normed: torch.Tensor = self.norm(hidden)
        return normed


class SharedDropout(nn.Module):
    """Dropout with the same mask for all items of a batch: on a CPU, drawing one for each is slow."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Apply dropout to [N, F, W] in training."""
        if not self.training or not self.share:
            return hidden
        kept = torch.rand(hidden.shape[1:], device=hidden.device) >= self.share
        return hidden * (kept.to(hidden.dtype) / (1 - self.share))


class FeedForward(nn.Sequential):
    """A feed-forward layer with expansion."""

    def __init__(self, size: SpeechEncoderSize) -> None:
        super().__init__(
            nn.LayerNorm(size.width),
            nn.Linear(size.width, size.expansion * size.width),
            nn.SiLU(),
            nn.Linear(size.expansion * size.width, size.width),
            SharedDropout(size.dropout),
        )


class Attention(nn.Module):
    """Self-attention over all frames of an item."""

    def __init__(self, size: SpeechEncoderSize) -> None:
        super().__init__()
        self.heads = size.heads
        self.norm = nn.LayerNorm(size.width)
        self.query_key_value = nn.Linear(size.width, 3 * size.width)
        self.mix = nn.Linear(size.width, size.width)
        self.dropout = SharedDropout(size.dropout)

    def forward(self, hidden: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Transform [N, F, W]."""
        items, frames, width = hidden.shape
        parts = self.query_key_value(self.norm(hidden)).view(
            items, frames, 3, self.heads, width // self.heads
        )
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)  # [N, heads, F, W / heads] each
        # Explicit, because PyTorch's own attention trains four times slower on a CPU.
        scores = torch.matmul(query * (width // self.heads) ** -0.5, key.transpose(2, 3)) + bias
        mixed = torch.matmul(scores.softmax(dim=3).to(value.dtype), value)
        out: torch.Tensor = self.dropout(self.mix(mixed.transpose(1, 2).reshape(items, frames, width)))
        return out


class Convolution(nn.Module):
    """A gated depthwise convolution over time."""

    def __init__(self, size: SpeechEncoderSize) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size.width)
        self.gate = nn.Linear(size.width, 2 * size.width)
        self.over_time = nn.Conv1d(
            size.width, size.width, size.kernel, padding=size.kernel // 2, groups=size.width
        )
        self.norm_over_time = nn.LayerNorm(size.width)
        self.mix = nn.Linear(size.width, size.width)
        self.dropout = SharedDropout(size.dropout)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Transform [N, F, W]."""
        gated = functional.glu(self.gate(self.norm(hidden)), dim=2)
        gated = gated * mask.to(gated.dtype)
        heard = self.over_time(gated.transpose(1, 2)).transpose(1, 2)
        out: torch.Tensor = self.dropout(self.mix(functional.silu(self.norm_over_time(heard))))
        return out
