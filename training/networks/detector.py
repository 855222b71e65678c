"""An anchor-free detector, with everything from `uint8` pixels to final boxes inside the graph.

After X. Zhou, D. Wang, P. Krähenbühl, Objects as Points, 2019 (arXiv:1904.07850): one heat map per class,
whose peaks are the objects' centres; a peak is the highest of its 3 × 3 neighbours, so there is no non-
maximum suppression. Boxes are distances from the point to the four edges as in Z. Tian et al., FCOS, 2019
(arXiv:1904.01355, equation 1), with a prediction of their overlap. Features of four sizes are added from
coarse to fine as in T.-Y. Lin et al., Feature Pyramid Networks, 2016 (arXiv:1612.03144).

Letters in shapes: `N` batch, `H` `W` the input's size, `h` `w` a quarter of it, `K` classes, `M` slots.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from training.networks.resnet import ResidualBlock
from training.recipes.detection_recipe import DetectorSize

STRIDE = 4  # input pixels between neighbouring points
_RARE = 0.01  # heat of every point before training (arXiv:1708.02002, section 4.1)
_TYPICAL_DISTANCE = 16.0  # input pixels, before training
_LONGEST = math.log(512)  # strides


@dataclass(frozen=True, slots=True)
class DetectorOutputs:
    """The network's outputs for every point.

    Attributes:
        heat: f32 [N, K, h, w], logits.
        distances: f32 [N, 4, h, w], input pixels from the point to the left, top, right and bottom edge.
        quality: f32 [N, 1, h, w], logits of the expected overlap of box and object.
    """

    heat: torch.Tensor
    distances: torch.Tensor
    quality: torch.Tensor


class Detector(nn.Module):
    """The exported graph: pixels in, boxes, scores and labels out."""

    def __init__(self, classes: int, size: DetectorSize) -> None:
        super().__init__()
        self.slots = size.slots
        self.score_power: torch.Tensor
        self.register_buffer("score_power", torch.ones(()))  # set after the training
        self.stem = nn.Sequential(
            *_normalised(nn.Conv2d(3, size.stem, 5, 2, padding=2, bias=False)),
            *_normalised(nn.Conv2d(size.stem, size.widths[0], 3, 2, padding=1, bias=False)),
        )
        before = size.widths[0]
        stages = []
        for number, (width, blocks) in enumerate(zip(size.widths, size.blocks, strict=True)):
            stride = 1 if number == 0 else 2
            stages.append(
                nn.Sequential(
                    ResidualBlock(before, width, stride),
                    *(ResidualBlock(width, width, 1) for _ in range(blocks - 1)),
                )
            )
            before = width
        self.stages = nn.ModuleList(stages)
        self.laterals = nn.ModuleList(nn.Conv2d(width, size.neck, 1) for width in size.widths)
        self.merged = nn.Sequential(*_normalised(nn.Conv2d(size.neck, size.neck, 3, padding=1, bias=False)))
        self.what = nn.Sequential(*_normalised(nn.Conv2d(size.neck, size.neck, 3, padding=1, bias=False)))
        self.where = nn.Sequential(*_normalised(nn.Conv2d(size.neck, size.neck, 3, padding=1, bias=False)))
        self.heat = nn.Conv2d(size.neck, classes, 1)
        self.box = nn.Conv2d(size.neck, 5, 1)
        nn.init.normal_(self.heat.weight, std=0.01)
        nn.init.constant_(self.heat.bias, -math.log((1 - _RARE) / _RARE))  # type: ignore[arg-type]
        nn.init.normal_(self.box.weight, std=0.01)
        with torch.no_grad():
            assert self.box.bias is not None
            self.box.bias[:4] = math.log(_TYPICAL_DISTANCE / STRIDE)
            self.box.bias[4] = 0.0

    def heads(self, image: torch.Tensor) -> DetectorOutputs:
        """Return the outputs for every point of u8 [N, H, W, 3], or f32 of the same range."""
        features = self.stem((image.permute(0, 3, 1, 2).float() - 127.5) / 64)
        levels = []
        for stage in self.stages:
            features = stage(features)
            levels.append(features)
        merged = self.laterals[-1](levels[-1])
        for level, lateral in zip(levels[-2::-1], list(self.laterals)[-2::-1], strict=True):
            merged = lateral(level) + functional.interpolate(
                merged, scale_factor=2.0, mode="bilinear", align_corners=False
            )
        merged = self.merged(merged)
        what, where = self.what(merged), self.where(merged)
        with torch.autocast("cpu", enabled=False):  # bfloat16 would round distances to whole pixels
            heat, box = self.heat(what.float()), self.box(where.float())
        distances = STRIDE * box[:, :4].clamp(max=_LONGEST).exp()
        return DetectorOutputs(heat, distances, box[:, 4:])

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Detect objects in u8 [N, H, W, 3].

        Returns:
            Boxes f32 [N, M, 4], left, top, right and bottom edge as shares 0–1 of the input; scores
            f32 [N, M], falling; labels i64 [N, M].
        """
        return pick_peaks(self.heads(image), self.slots, self.score_power)


def pick_peaks(
    heads: DetectorOutputs, slots: int, power: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the detections of some outputs; see `Detector.forward`.

    A score is the heat times the square root of the expected overlap, raised to the given power. Slots
    without a peak have score 0.
    """
    classes, height, width = heads.heat.shape[1:]
    # Logits instead of their sigmoid, which is 1 for all large logits.
    highest = functional.max_pool2d(heads.heat, 3, stride=1, padding=1)
    scores = (heads.heat.sigmoid() * heads.quality.sigmoid().sqrt()) ** power
    peaks = torch.where(heads.heat == highest, scores, torch.zeros_like(scores))
    slots = min(slots, classes * height * width)
    best, where = peaks.flatten(1).topk(slots, dim=1)
    label = torch.div(where, height * width, rounding_mode="floor")
    point = where - label * (height * width)
    row = torch.div(point, width, rounding_mode="floor")
    column = point - row * width
    centre_x, centre_y = (column.float() + 0.5) * STRIDE, (row.float() + 0.5) * STRIDE
    found = heads.distances.flatten(2).gather(2, point.unsqueeze(1).expand(-1, 4, -1))
    left, top, right, bottom = found.unbind(dim=1)
    edges = [
        (centre_x - left) / (width * STRIDE),
        (centre_y - top) / (height * STRIDE),
        (centre_x + right) / (width * STRIDE),
        (centre_y + bottom) / (height * STRIDE),
    ]
    return torch.stack(edges, dim=2).clamp(0, 1), best, label


def _normalised(convolution: nn.Conv2d) -> tuple[nn.Module, ...]:
    return convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()
