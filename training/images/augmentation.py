"""Augmentation of images of any kind: position, size, rotation, light, colour, noise, mirroring.

Letters in shapes: `B` batch, `H` height, `W` width, `C` channels.
"""

from __future__ import annotations

import torch
from torch.nn import functional


class ImageAugmentation:
    """Random affine transformations and colour changes of a batch of images.

    Args:
        mirror: Whether half of the images are mirrored.
    """

    def __init__(self, *, mirror: bool) -> None:
        self._mirror = mirror

    def prepare(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return u8 [N, H, W, C] unchanged."""
        return pixels

    def __call__(self, pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Augment u8 [B, H, W, C]; return f32 of the same shape, integers 0–255."""
        channels_first = pictures.permute(0, 3, 1, 2).float()
        count = len(pictures)

        def uniform(low: float, high: float) -> torch.Tensor:
            return torch.rand(count, generator=generator) * (high - low) + low

        scale, angle = uniform(0.8, 1.1), uniform(-0.2, 0.2)
        flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0) if self._mirror else torch.ones(count)
        cos, sin = scale * angle.cos(), scale * angle.sin()
        rows = [
            torch.stack([cos * flip, -sin, uniform(-0.1, 0.1)], 1),
            torch.stack([sin * flip, cos, uniform(-0.1, 0.1)], 1),
        ]
        grid = functional.affine_grid(torch.stack(rows, 1), list(channels_first.shape), align_corners=False)
        moved = functional.grid_sample(channels_first, grid, padding_mode="reflection", align_corners=False)
        gain = uniform(0.7, 1.3)[:, None, None, None]
        tint = torch.rand(count, channels_first.shape[1], 1, 1, generator=generator) * 30 - 15
        grain = torch.randn(moved.shape, generator=generator) * uniform(0, 6)[:, None, None, None]
        levels = (moved - 128) * gain + 128 + uniform(-30, 30)[:, None, None, None] + tint + grain
        return levels.round().clamp(0, 255).permute(0, 2, 3, 1)
