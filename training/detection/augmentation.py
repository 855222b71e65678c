"""Augmentation of training images with boxes: light and colour, and for photographs position and size.

Letters in shapes: `N` batch, `H` `W` size, `G` maximum number of objects per image.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from training.detection.losses import Targets

_VISIBLE = 0.4  # share of an object's area that must stay in the image


def change_colors(images: torch.Tensor, generator: torch.Generator, *, invert: bool) -> torch.Tensor:
    """Change light, colour and noise.

    Args:
        images: u8 [N, H, W, 3].
        generator: Source of all random numbers.
        invert: Whether half of the images become negatives, and colour channels may be permuted.

    Returns:
        f32 of the same shape, integers 0–255.
    """
    count = len(images)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.rand(count, *shape, generator=generator)[..., None, None, None] * (high - low) + low

    levels = images.float()
    if invert:
        levels = torch.where(uniform(0, 1) < 0.5, 255 - levels, levels)
        if torch.rand((), generator=generator) < 0.5:
            levels = levels[..., torch.randperm(3, generator=generator)]
    tint = torch.rand(count, 1, 1, 3, generator=generator) * 20 - 10
    grain = torch.randn(levels.shape, generator=generator) * uniform(0, 5)
    varied = (levels - 128) * uniform(0.75, 1.15) + 128 + uniform(-25, 25) + tint + grain
    return varied.round().clamp(0, 255)


def move_images(
    images: torch.Tensor, truth: Targets, generator: torch.Generator, *, mirror: bool
) -> tuple[torch.Tensor, Targets]:
    """Scale, shift and mirror images with their boxes.

    Args:
        images: f32 [N, H, W, 3].
        truth: The objects.
        generator: Source of all random numbers.
        mirror: Whether half of the images are mirrored.

    Returns:
        Images of the same size, grey outside the original image; and the objects that are still visible.
    """
    count, height, width, _ = images.shape

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    scale = (uniform(-0.4, 0.4)).exp()
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0) if mirror else torch.ones(count)
    shift_x, shift_y = uniform(-0.3, 0.3), uniform(-0.3, 0.3)
    nothing = torch.zeros(count)
    # From positions in the new image to positions in the old one, both -1 to 1.
    matrix = torch.stack(
        [
            torch.stack([flip / scale, nothing, -shift_x * flip / scale], dim=1),
            torch.stack([nothing, 1 / scale, -shift_y / scale], dim=1),
        ],
        dim=1,
    )
    pictures = images.permute(0, 3, 1, 2)
    grid = functional.affine_grid(matrix, list(pictures.shape), align_corners=False)
    moved = functional.grid_sample(pictures - 127.5, grid, padding_mode="zeros", align_corners=False) + 127.5
    half = torch.tensor([width / 2, height / 2] * 2)
    along = torch.stack([scale * flip, scale] * 2, dim=1)[:, None]
    added = torch.stack([shift_x, shift_y] * 2, dim=1)[:, None]
    edges = ((truth.boxes_xyxy / half - 1) * along + added + 1) * half
    ordered = torch.cat(
        [torch.minimum(edges[..., :2], edges[..., 2:]), torch.maximum(edges[..., :2], edges[..., 2:])], dim=2
    )
    limit = torch.tensor([width, height] * 2)
    cut = torch.minimum(ordered.clamp(min=0), limit)
    left = (cut[..., 2:] - cut[..., :2]).prod(dim=2)
    whole = (ordered[..., 2:] - ordered[..., :2]).prod(dim=2).clamp(min=1e-6)
    labels = torch.where(left / whole >= _VISIBLE, truth.labels, -1)
    return moved.permute(0, 2, 3, 1), Targets(cut, labels)
