"""A small convolutional network that classifies short sounds, from samples to probabilities.

Log-mel features; convolutions over bands and time, each of which halves the bands and the first two of which
halve the time, so that pitch and formant shifts matter little; then residual convolutions over time alone,
and average and maximum pooling over time. It is a simpler form of the split between frequency and time in B.
Kim et al., Broadcasted Residual Learning, 2021 (arXiv:2106.04140).

Padding is masked before every convolution and left out of both pools, so that it never changes an answer.

Letters in shapes: `N` batch, `T` samples, `M` feature frames, `B` mel bands, `F` frames, `C` channels,
`W` width, `K` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from training.networks.log_mel import LogMel, mask_of

_TIME_BLOCKS = 3
_TIME_KERNEL = 5
_HALVINGS_OF_TIME = 2


@dataclass(frozen=True, slots=True)
class SoundFront:
    """Settings of the log-mel features.

    Attributes:
        sample_rate: Samples per second.
        mels: B.
        hop_seconds: Time between frames.
    """

    sample_rate: int
    mels: int
    hop_seconds: float


class SoundClassifier(nn.Module):
    """The exported graph: samples in, probabilities out.

    Args:
        front: Settings of the log-mel features.
        widths: Channels of the convolutions over bands and time; the last number is the width of those over
            time alone.
        dropout: Share dropped before the last layer in training.
        classes: K.
    """

    def __init__(self, front: SoundFront, widths: Sequence[int], dropout: float, classes: int) -> None:
        super().__init__()
        *channels, width = widths
        self.log_mel = LogMel(front.sample_rate, front.mels, front.hop_seconds)
        self.planes = nn.ModuleList(
            BandBlock(before, after, 2 if number < _HALVINGS_OF_TIME else 1)
            for number, (before, after) in enumerate(zip((1, *channels), channels, strict=False))
        )
        bands = front.mels
        for _ in channels:
            bands = -(-bands // 2)
        self.flat = nn.Conv1d((channels or [1])[-1] * bands, width, 1, bias=False)
        self.norm = nn.BatchNorm1d(width)
        self.times = nn.ModuleList(TimeBlock(width) for _ in range(_TIME_BLOCKS))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, audio: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Classify sounds.

        Args:
            audio: f32 [N, T], -1 to 1; values beyond an item's length are ignored.
            lengths: i64 [N], samples.

        Returns:
            Probabilities f32 [N, K].
        """
        return functional.softmax(self.logits(*self.log_mel(audio, lengths)), dim=1)

    def logits(self, features: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """Return logits f32 [N, K] of features f32 [N, B, M], 0 beyond the frames i64 [N]."""
        hidden = features.unsqueeze(1)  # [N, 1, B, M]
        for plane in self.planes:
            hidden, frames = plane(hidden, frames)
        mask = mask_of(frames, hidden.shape[3]).to(hidden.dtype).unsqueeze(1)  # [N, 1, F]
        # Bands become channels; [N, C, B', F] -> [N, W, F].
        across = functional.relu(self.norm(self.flat(hidden.flatten(1, 2)))) * mask
        for block in self.times:
            across = block(across, mask)
        count = mask.sum(dim=2).clamp(min=1)
        pooled = torch.cat([across.sum(dim=2) / count, across.amax(dim=2)], dim=1)  # [N, 2W], none is below 0
        logits: torch.Tensor = self.head(self.dropout(pooled))
        return logits.float()


class BandBlock(nn.Module):
    """A convolution over bands and time that halves the bands."""

    def __init__(self, before: int, after: int, time_stride: int) -> None:
        super().__init__()
        self._time_stride = time_stride
        self.convolution = nn.Conv2d(before, after, 3, (2, time_stride), padding=1, bias=False)
        self.norm = nn.BatchNorm2d(after)

    def forward(self, hidden: torch.Tensor, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Transform [N, C, B, M], 0 beyond the frames i64 [N]; return [N, C', B / 2, M'] and its frames."""
        hidden = functional.relu(self.norm(self.convolution(hidden)))
        if self._time_stride == 2:
            frames = torch.div(frames + 1, 2, rounding_mode="floor")
        return hidden * mask_of(frames, hidden.shape[3]).to(hidden.dtype)[:, None, None, :], frames


class TimeBlock(nn.Module):
    """A residual convolution over time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(width, width, _TIME_KERNEL, padding=_TIME_KERNEL // 2, bias=False)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Transform [N, W, F], 0 where the mask [N, 1, F] is 0."""
        return functional.relu(hidden + self.norm(self.convolution(hidden))) * mask
