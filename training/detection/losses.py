"""Targets and losses of the detector: focal loss for the heat map, overlap loss for the boxes.

As in Z. Liu et al., Training-Time-Friendly Network for Real-Time Object Detection, 2019 (arXiv:1909.00700,
section 3), a Gaussian around each object's centre, with deviations in proportion to width and height, is the
target of the heat map and also the weight of the box loss at the points around the centre.

Letters in shapes: `N` batch, `G` maximum number of objects per image, `K` classes, `h` `w` points, `P` points
of a patch around a centre.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from training.networks.detector import STRIDE, DetectorOutputs

_SPREAD = 0.12  # deviation relative to a side
_LEAST_SPREAD, _MOST_SPREAD = 0.6, 2.0  # points
_REACH = 6  # points from a patch's centre to its edge
_LEAST_WEIGHT = 0.05  # of a point's box, relative to the centre
_BOX_WEIGHT = 2.0
_QUALITY_WEIGHT = 0.5


@dataclass(frozen=True, slots=True)
class Targets:
    """The objects in a batch of images.

    Attributes:
        boxes_xyxy: f32 [N, G, 4], edges in input pixels.
        labels: i64 [N, G]; -1 is padding.
    """

    boxes_xyxy: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True, slots=True)
class Losses:
    """The parts of the loss, each a f32 scalar."""

    heat: torch.Tensor
    box: torch.Tensor
    quality: torch.Tensor

    @property
    def total(self) -> torch.Tensor:
        """The weighted sum."""
        return self.heat + _BOX_WEIGHT * self.box + _QUALITY_WEIGHT * self.quality


@dataclass(frozen=True, slots=True)
class CentrePatches:
    """The points around each object's centre.

    Attributes:
        place: i64 [N, G, P], the point's index, row by row.
        weight: f32 [N, G, P], 1 at the centre, less around it; 0 outside the image and for padding.
    """

    place: torch.Tensor
    weight: torch.Tensor


def spread_over_points(truth: Targets, height: int, width: int) -> CentrePatches:
    """Return the patch of each object on a grid of `height` × `width` points."""
    boxes, there = truth.boxes_xyxy, truth.labels >= 0
    centre = (boxes[..., :2] + boxes[..., 2:]) / (2 * STRIDE)
    limit = torch.tensor([width - 1, height - 1], device=boxes.device)
    cell = torch.minimum(centre.floor().long().clamp(min=0), limit)  # [N, G, 2], x and y
    sides = (boxes[..., 2:] - boxes[..., :2]) / STRIDE
    spread = (_SPREAD * sides).clamp(_LEAST_SPREAD, _MOST_SPREAD)
    steps = torch.arange(-_REACH, _REACH + 1, device=boxes.device)
    down, right = torch.meshgrid(steps, steps, indexing="ij")
    offset = torch.stack([right.flatten(), down.flatten()], dim=1)  # [P, 2]
    weight = torch.exp(-(offset**2 / (2 * spread[:, :, None] ** 2)).sum(dim=3))  # [N, G, P]
    points = cell[:, :, None] + offset
    inside = ((points >= 0) & (points <= limit)).all(dim=3) & there[:, :, None]
    points = torch.minimum(points.clamp(min=0), limit)
    return CentrePatches(points[..., 1] * width + points[..., 0], weight * inside)


def losses(heads: DetectorOutputs, truth: Targets) -> Losses:
    """Return the losses of the network's outputs."""
    classes, height, width = heads.heat.shape[1:]
    patches = spread_over_points(truth, height, width)
    things = (truth.labels >= 0).sum().clamp(min=1)
    heat = _heat_target(patches, truth.labels, classes, height * width)
    box, quality = _box_losses(heads, truth, patches, things)
    return Losses(_focal(heads.heat.flatten(1), heat) / things, box, quality)


def _heat_target(patches: CentrePatches, labels: torch.Tensor, classes: int, points: int) -> torch.Tensor:
    """Return target heat maps, the maximum where patches meet: f32 [N, K × h × w]."""
    target = torch.zeros(len(labels), classes * points, device=labels.device)
    place = labels.clamp(min=0)[:, :, None] * points + patches.place
    return target.scatter_reduce(1, place.flatten(1), patches.weight.flatten(1), "amax")


def _focal(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the focal loss with reduced penalty around centres (arXiv:1904.07850, equation 1), summed."""
    heat = logits.sigmoid()
    right, wrong = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    at_centres = (1 - heat) ** 2 * right
    elsewhere = (1 - target) ** 4 * heat**2 * wrong
    return -torch.where(target == 1, at_centres, elsewhere).sum()


def _box_losses(
    heads: DetectorOutputs, truth: Targets, patches: CentrePatches, things: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the losses of boxes and of their expected overlap; each object has weight 1."""
    width = heads.heat.shape[3]
    weight = patches.weight * (patches.weight >= _LEAST_WEIGHT)
    picture, thing, point = weight.nonzero(as_tuple=True)
    place = patches.place[picture, thing, point]
    share = (weight / weight.sum(dim=2, keepdim=True).clamp(min=1e-6))[picture, thing, point]
    centre = torch.stack([place % width, place // width], dim=1) * float(STRIDE) + STRIDE / 2
    distances = heads.distances.flatten(2)[picture, :, place]
    boxes = torch.cat([centre - distances[:, :2], centre + distances[:, 2:]], dim=1)
    overlap, generalised = overlaps(boxes, truth.boxes_xyxy[picture, thing])
    logits = heads.quality.flatten(1)[picture, place]
    quality = functional.binary_cross_entropy_with_logits(logits, overlap.detach(), reduction="none")
    return ((1 - generalised) * share).sum() / things, (quality * share).sum() / things


def overlaps(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the overlaps of pairs of boxes.

    Args:
        first: f32 [P, 4], left, top, right, bottom.
        second: f32 [P, 4].

    Returns:
        f32 [P] each: intersection over union, and the generalised one of H. Rezatofighi et al., 2019
        (arXiv:1902.09630, algorithm 1), which falls to -1 for distant boxes.
    """
    shared = (torch.minimum(first[:, 2:], second[:, 2:]) - torch.maximum(first[:, :2], second[:, :2])).clamp(
        min=0
    )
    hull = torch.maximum(first[:, 2:], second[:, 2:]) - torch.minimum(first[:, :2], second[:, :2])
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1) for boxes in (first, second)]
    both = shared.prod(dim=1)
    union = (areas[0] + areas[1] - both).clamp(min=1e-6)
    around = hull.prod(dim=1).clamp(min=1e-6)
    overlap = both / union
    return overlap, overlap - (around - union) / around
