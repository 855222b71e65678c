"""Log-mel features as a convolution, so that they are part of the exported graph.

Each frame is a windowed Fourier transform, whose basis is the fixed weights of a convolution. Its power is
summed in triangles that are evenly spaced on the mel scale (S. Stevens, J. Volkmann, E. Newman 1937; formula
of D. O'Shaughnessy, Speech Communication, 1987: mel = 2595 log10(1 + f / 700)).

Letters in shapes: `N` batch, `T` samples, `M` frames of the features, `B` mel bands.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

WINDOW_SECONDS = 0.025
_LOWEST_HERTZ = 60.0
_FLOOR = 1e-6  # lower power counts as silence; 16-bit rounding is about there
_LEAST_DEVIATION = 0.1  # nepers; silence must not be amplified to noise


class LogMel(nn.Module):
    """Log-mel features with mean 0 and deviation 1 per utterance.

    Args:
        sample_rate: Samples per second.
        bands: B.
        hop_seconds: Time between frames.
    """

    def __init__(self, sample_rate: int, bands: int, hop_seconds: float) -> None:
        super().__init__()
        self.hop = round(hop_seconds * sample_rate)
        window = max(self.hop, round(WINDOW_SECONDS * sample_rate))
        self._before = (window - self.hop) // 2
        self._after = window - 1 - self._before  # so that M = ceil(T / hop)
        points = 2 ** math.ceil(math.log2(window))
        filters = mel_filters(sample_rate, points, bands)
        used = np.flatnonzero(filters.sum(axis=0))
        first, last = int(used[0]), int(used[-1]) + 1
        self.basis: torch.Tensor
        self.filters: torch.Tensor
        # Known from the recipe, so not stored in a checkpoint.
        basis = torch.from_numpy(fourier_basis(window, points, first, last)).unsqueeze(1)
        self.register_buffer("basis", basis, persistent=False)
        self.register_buffer("filters", torch.from_numpy(filters[:, first:last]), persistent=False)

    def frames(self, lengths: torch.Tensor) -> torch.Tensor:
        """Return the number of frames for a number of samples."""
        return torch.div(lengths + self.hop - 1, self.hop, rounding_mode="floor")

    def forward(self, audio: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute features.

        Args:
            audio: f32 [N, T], -1 to 1; values beyond an item's length are ignored.
            lengths: i64 [N], samples.

        Returns:
            Features f32 [N, B, M], 0 beyond an item's frames, and the frames i64 [N].
        """
        audio = audio * mask_of(lengths, audio.shape[1]).to(audio.dtype)
        padded = functional.pad(audio, (self._before, self._after)).unsqueeze(1)
        waves = functional.conv1d(padded, self.basis, stride=self.hop)  # [N, 2 × frequencies, M]
        cosines, sines = waves.chunk(2, dim=1)
        logs = torch.log(torch.matmul(self.filters, cosines.square() + sines.square()) + _FLOOR)
        frames = self.frames(lengths)
        mask = mask_of(frames, logs.shape[2]).to(logs.dtype).unsqueeze(1)  # [N, 1, M]
        return normalised(logs, mask), frames


def normalised(logs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Subtract each band's mean, and divide by the deviation of all bands together.

    Args:
        logs: f32 [N, B, M].
        mask: f32 [N, 1, M], 1 for frames that count.

    Returns:
        f32 [N, B, M], 0 where the mask is 0.
    """
    count = mask.sum(dim=2, keepdim=True).clamp(min=1)
    mean = (logs * mask).sum(dim=2, keepdim=True) / count  # [N, B, 1]
    centred = (logs - mean) * mask
    variance = (centred.square().sum(dim=2, keepdim=True) / count).mean(dim=1, keepdim=True)  # [N, 1, 1]
    return centred / variance.sqrt().clamp(min=_LEAST_DEVIATION)


def mask_of(lengths: torch.Tensor, size: int) -> torch.Tensor:
    """Return a mask, True before each length: bool [N, size] for i64 [N]."""
    return torch.arange(size, device=lengths.device).unsqueeze(0) < lengths.unsqueeze(1)


def fourier_basis(window: int, points: int, first: int, last: int) -> NDArray[np.float32]:
    """Return Hann-windowed cosines, then sines, of some frequencies of a Fourier transform.

    Args:
        window: Samples of the window.
        points: Points of the transform.
        first: Index of the lowest frequency.
        last: One more than the index of the highest frequency.

    Returns:
        f32 [2 × (last - first), window].
    """
    time = np.arange(window)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * (time + 0.5) / window)
    angles = 2 * np.pi / points * np.arange(first, last)[:, None] * time
    return np.concatenate([np.cos(angles) * hann, np.sin(angles) * hann]).astype(np.float32)


def mel_filters(sample_rate: int, points: int, bands: int) -> NDArray[np.float32]:
    """Return triangular filters, evenly spaced on the mel scale, up to half of the sample rate.

    Returns:
        f32 [bands, points / 2 + 1], one row per band; the sum of each row is 1.
    """
    edges = _hertz(np.linspace(_mel(_LOWEST_HERTZ), _mel(sample_rate / 2), bands + 2))
    frequencies = np.arange(points // 2 + 1) * sample_rate / points
    # Low bands are narrower than the distance of two frequencies; each needs at least one.
    spacing = sample_rate / points
    centres = edges[1:-1, None]
    lower = np.minimum(edges[:-2, None], centres - spacing)
    upper = np.maximum(edges[2:, None], centres + spacing)
    rising = (frequencies - lower) / (centres - lower)
    falling = (upper - frequencies) / (upper - centres)
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    filters: NDArray[np.float32] = (triangles / triangles.sum(axis=1, keepdims=True)).astype(np.float32)
    return filters


def _mel(hertz: float) -> float:
    return 2595 * math.log10(1 + hertz / 700)


def _hertz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    hertz: NDArray[np.float64] = 700 * (10 ** (mel / 2595) - 1)
    return hertz
