"""Augmentation of digits: a batch of 8 × 8 pixels becomes pen strokes on paper, all in PyTorch.

It is independent of `redraw.py`, which makes test files. Three in ten images stay close to the original look:
grey 8 × 8 pixels that fill the image.

Letters in shapes: `N` images, `B` batch, `F` side of an enlarged digit with its margin, `S` side of the
drawing, twice the graph's input. Drawings are f32 [B, S, S], 0 paper to 1 ink; coordinates run from −1 to 1
over the drawing.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from service.repository.manifest import ImageInput

_PAD = 3  # source pixels of paper around the digit
_ZOOM = 4
_WAVE_POINTS = 4
_AS_IS = 0.3  # share of pictures that keep the data's own look


class DigitAugmentation:
    """Draws digits with random strokes, placement and light.

    Args:
        spec: Size of the graph's input.
    """

    def __init__(self, spec: ImageInput) -> None:
        self._size = (spec.height, spec.width)
        self._side = 2 * max(self._size)
        # Bicubic enlargement of a few points to the drawing's side, as a matrix [S, points].
        points = torch.eye(_WAVE_POINTS)[None, :, :, None]
        enlarged = functional.interpolate(points, (self._side, 1), mode="bicubic", align_corners=False)
        self._bend = enlarged[0, :, :, 0].T

    def prepare(self, pixels: torch.Tensor) -> torch.Tensor:
        """Enlarge u8 [N, 8, 8, 1] once for all; return f32 [N, 2, F, F], the smooth field and its ridges."""
        field = _smooth(pixels[..., 0].float() / 255)
        return torch.stack([field, _ridge(field)], dim=1)

    def __call__(self, pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draw prepared f32 [B, 2, F, F]; return f32 [B, H, W, 1], integers 0–255."""
        draw = _Random(len(pictures), generator)
        as_is = draw.chance(_AS_IS)
        field, ridge = pictures[:, 0], pictures[:, 1]
        mix = torch.where(draw.chance(0.6), draw.uniform(0.5, 1.0), draw.uniform(0.0, 0.2))[:, None, None]
        pen = mix * ridge + (1 - mix) * field
        grid = _placement(draw, as_is, field.shape[-1], self._side) + _waves(draw, as_is, self._bend)
        drawn = _sample(torch.where(as_is[:, None, None], field, pen), grid)
        threshold = draw.uniform(0.25, 0.8) * (0.6 + 0.4 * mix[:, 0, 0])
        softness = draw.log_uniform(0.01, 0.12)
        strokes = ((drawn - threshold[:, None, None]) / softness[:, None, None]).sigmoid()
        ink = torch.where(as_is[:, None, None], drawn, strokes)
        ink = torch.maximum(ink, _rules(draw, self._side) * draw.chance(0.25)[:, None, None])
        small = functional.interpolate(ink[:, None], self._size, mode="area")
        return _expose(draw, _blur(draw, small))


class _Random:
    """Draws one random number per image from one generator."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.count = count
        self.generator = generator

    def uniform(self, low: float, high: float) -> torch.Tensor:
        return torch.rand(self.count, generator=self.generator) * (high - low) + low

    def log_uniform(self, low: float, high: float) -> torch.Tensor:
        return self.uniform(math.log(low), math.log(high)).exp()

    def chance(self, share: float) -> torch.Tensor:
        return torch.rand(self.count, generator=self.generator) < share

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(self.count, *shape, generator=self.generator)


def _smooth(ink: torch.Tensor) -> torch.Tensor:
    """Enlarge [B, h, w] smoothly, with a margin of paper."""
    padded = functional.pad(ink[:, None], (_PAD,) * 4)
    fine = functional.interpolate(padded, scale_factor=_ZOOM, mode="bicubic", align_corners=False)
    return fine[:, 0].clamp(0, 1)


def _ridge(field: torch.Tensor) -> torch.Tensor:
    """Scale the middle of every stroke to 1, so that a high threshold does not break faint strokes."""
    reach = 2 * _ZOOM + 1
    across = functional.max_pool2d(field[:, None], (1, reach), stride=1, padding=(0, reach // 2))
    highest = functional.max_pool2d(across, (reach, 1), stride=1, padding=(reach // 2, 0))[:, 0]
    seen = ((field - 0.15) / 0.05).sigmoid()
    return field / highest.clamp(min=0.2) * seen


def _placement(draw: _Random, as_is: torch.Tensor, field_side: int, side: int) -> torch.Tensor:
    """Return the point of the field for each point of the drawing: f32 [B, S, S, 2]."""
    share = torch.where(as_is, draw.uniform(0.92, 1.02), draw.log_uniform(0.3, 1.0))
    stretch = torch.where(as_is, draw.uniform(-0.05, 0.05), draw.uniform(-0.35, 0.35)).exp()
    angle = torch.where(as_is, draw.uniform(-0.1, 0.1), draw.uniform(-0.33, 0.33))
    shear = torch.where(as_is, draw.uniform(-0.05, 0.05), draw.uniform(-0.3, 0.3))
    room = torch.where(as_is, torch.full_like(share, 0.06), (1 - share).clamp(min=0.06, max=0.5))
    shift = torch.stack([draw.uniform(-1, 1), draw.uniform(-1, 1)], dim=1) * room[:, None]
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    skew = torch.stack(
        [torch.stack([stretch.rsqrt(), shear], 1), torch.stack([0 * shear, stretch.sqrt()], 1)], 1
    )
    scale = (1 - 2 * _PAD * _ZOOM / field_side) / share
    matrix = turn @ skew * scale[:, None, None]
    offset = -(matrix @ shift[:, :, None])
    theta = torch.cat([matrix, offset], dim=2)
    return functional.affine_grid(theta, [draw.count, 1, side, side], align_corners=False)


def _waves(draw: _Random, as_is: torch.Tensor, bend: torch.Tensor) -> torch.Tensor:
    """Return a smooth random displacement of the field's points: f32 [B, S, S, 2]."""
    strength = torch.where(as_is, draw.uniform(0, 0.02), draw.uniform(0, 0.08))
    points = draw.normal(2, _WAVE_POINTS, _WAVE_POINTS) * strength[:, None, None, None]
    return (bend @ points @ bend.T).permute(0, 2, 3, 1)


def _sample(field: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    return functional.grid_sample(field[:, None], grid, padding_mode="zeros", align_corners=False)[:, 0]


def _rules(draw: _Random, side: int) -> torch.Tensor:
    """Draw printed lines, or squares for a third: [B, S, S], up to 0.6 of the ink's strength."""
    place = torch.arange(side, dtype=torch.float32)
    spacing, thickness = draw.uniform(0.1, 0.45) * side, draw.log_uniform(0.25, 2.0)

    def lines(start: torch.Tensor) -> torch.Tensor:
        gap = (place + start[:, None] * spacing[:, None]) % spacing[:, None]
        return (thickness[:, None] - gap).clamp(0, 1)

    across = lines(draw.uniform(0, 1))[:, :, None]
    down = lines(draw.uniform(0, 1))[:, None, :] * draw.chance(0.33)[:, None, None]
    return torch.maximum(across, down) * draw.uniform(0.1, 0.6)[:, None, None]


def _blur(draw: _Random, pictures: torch.Tensor) -> torch.Tensor:
    """Blur some images [B, 1, H, W], like an enlarged small file or a lens out of focus."""
    weight = (draw.uniform(0, 1) * draw.chance(0.4))[:, None, None, None]
    soft = functional.avg_pool2d(functional.pad(pictures, (1,) * 4, mode="replicate"), 3, stride=1)
    return weight * soft + (1 - weight) * pictures


def _expose(draw: _Random, pictures: torch.Tensor) -> torch.Tensor:
    """Choose grey levels, light, noise and polarity; return f32 [B, H, W, 1], integers 0–255."""
    height, width = pictures.shape[2:]
    contrast = draw.log_uniform(0.2, 1.0)[:, None, None]
    low = draw.uniform(0, 1)[:, None, None] * (1 - contrast)
    slope_y, slope_x = (draw.uniform(-0.3, 0.3) * draw.chance(0.4) for _ in range(2))
    ramp_y = torch.linspace(-0.5, 0.5, height)[None, :, None] * slope_y[:, None, None]
    ramp_x = torch.linspace(-0.5, 0.5, width)[None, None, :] * slope_x[:, None, None]
    grain = draw.normal(height, width) * (draw.uniform(0, 0.1) * draw.chance(0.5))[:, None, None]
    amount = pictures[:, 0] + ramp_y + ramp_x + grain
    light = torch.where(draw.chance(0.5)[:, None, None], 1 - amount, amount)
    levels = ((low + contrast * light) * 255).round().clamp(0, 255)
    return levels[..., None]
