"""An independent implementation of the detector's decoding, to check the exported graph.

The graph must detect what this module finds in PyTorch's outputs. Where neighbouring points are equal, as on
plain paper, or where several points compete for the last slot, rounding decides and either answer is right.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from service.engine.runtime.session import Session
from service.tasks.image.detection import MIN_COMPARED_SCORE, box_iou
from training.errors import ExportFailed
from training.networks.detector import Detector, DetectorOutputs

TOLERANCES = {"boxes": 1e-3, "scores": 1e-3, "labels": 1e-3}
BATCHES = (1, 3, 7)  # the export uses another one
_TIE = 1e-3  # of logits and scores: closer values may change their order by rounding
_SAME = 0.9  # overlap of two boxes of one object


@dataclass(frozen=True, slots=True)
class Peak:
    """A detection.

    Attributes:
        box_xyxy: Edges as shares of the input's size.
        sure: Whether it is a peak within the slots regardless of rounding.
    """

    box_xyxy: tuple[float, float, float, float]
    score: float
    label: int
    sure: bool


def decode_heads(heads: DetectorOutputs, slots: int, stride: int, power: float) -> list[list[Peak]]:
    """Return the peaks of each image, including doubtful ones.

    Args:
        heads: Outputs of the network.
        slots: Most detections per image.
        stride: Input pixels between points.
        power: Power of the scores.

    Returns:
        For each image its peaks with at least the measured score, by falling score.
    """
    heat, distances, quality = (
        part.detach().double().numpy() for part in (heads.heat, heads.distances, heads.quality)
    )
    return [
        _decode_one(arrays, slots, stride, power) for arrays in zip(heat, distances, quality, strict=True)
    ]


def _decode_one(
    arrays: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    slots: int,
    stride: int,
    power: float,
) -> list[Peak]:
    heat, distances, quality = arrays
    _, height, width = heat.shape
    found = []
    least = MIN_COMPARED_SCORE ** (1 / power)  # the expected overlap is at most 1
    for label, row, column in np.argwhere(heat > np.log(least / (1 - least)) - 1).tolist():
        around = heat[label, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        own = heat[label, row, column]
        if own < around.max() - _TIE:
            continue
        expected = 1 / (1 + np.exp(-quality[0, row, column]))
        score = float((np.sqrt(expected) / (1 + np.exp(-own))) ** power)
        left, top, right, bottom = distances[:, row, column].tolist()
        x, y = stride * column + stride / 2, stride * row + stride / 2
        edges = (
            (x - left) / (stride * width),
            (y - top) / (stride * height),
            (x + right) / (stride * width),
            (y + bottom) / (stride * height),
        )
        one, two, three, four = (min(1.0, max(0.0, edge)) for edge in edges)
        alone = int((around >= own - _TIE).sum()) == 1
        found.append(Peak((one, two, three, four), score, label, alone))
    found.sort(key=lambda peak: -peak.score)
    if len(found) > slots:
        last = found[slots].score  # the best score that may be left out
        found = [replace(peak, sure=peak.sure and peak.score > last + _TIE) for peak in found]
    return [peak for peak in found if peak.score >= MIN_COMPARED_SCORE]


def check_parity(
    network: Detector, graph: Session, images: NDArray[np.uint8], stride: int
) -> dict[str, float]:
    """Compare an exported graph with PyTorch's outputs, box by box, at several batch sizes.

    Args:
        network: The network in evaluation mode.
        graph: The exported graph.
        images: u8 [N, H, W, 3]; repeated for larger batches.
        stride: Input pixels between points.

    Returns:
        The largest difference, by output name.

    Raises:
        ExportFailed: A box is missing, or differs by more than the tolerance.
    """
    worst = {"boxes": 0.0, "scores": 0.0}
    for size in BATCHES:
        batch = np.take(images, range(size), axis=0, mode="wrap")
        expected = _decoded(network, batch, stride)
        got = graph.run({"image": batch})
        for number, peaks in enumerate(expected):
            row = {name: array[number] for name, array in got.items()}
            for name, difference in _compare(peaks, row, f"picture {number + 1} of {size}").items():
                worst[name] = max(worst[name], difference)
    return worst


def is_unambiguous(network: Detector, images: NDArray[np.uint8], stride: int) -> NDArray[np.bool_]:
    """Return for each of u8 [N, H, W, 3] whether its detections do not depend on rounding: bool [N]."""
    return np.array([all(peak.sure for peak in peaks) for peaks in _decoded(network, images, stride)])


def _decoded(network: Detector, images: NDArray[np.uint8], stride: int) -> list[list[Peak]]:
    import torch  # noqa: PLC0415

    with torch.inference_mode():
        heads = network.heads(torch.from_numpy(images))
    return decode_heads(heads, network.slots, stride, float(network.score_power))


def _compare(peaks: list[Peak], row: dict[str, NDArray[np.float32]], where: str) -> dict[str, float]:
    worst = {"boxes": 0.0, "scores": 0.0}
    for peak in (peak for peak in peaks if peak.sure):
        overlaps = box_iou(np.array(peak.box_xyxy), row["boxes"].astype(np.float64))
        overlaps[(row["labels"] != peak.label) | (np.abs(row["scores"] - peak.score) > 0.01)] = 0
        best = int(overlaps.argmax())
        if not overlaps[best] >= _SAME:
            raise ExportFailed(
                f"the exported graph lacks label {peak.label} at {peak.box_xyxy} of {where}. "
                "Nothing was written"
            )
        differences = {
            "boxes": float(np.abs(row["boxes"][best] - peak.box_xyxy).max()),
            "scores": abs(float(row["scores"][best]) - peak.score),
        }
        for name, difference in differences.items():
            if not difference <= TOLERANCES[name]:
                raise ExportFailed(
                    f"output {name} of the exported graph differs from PyTorch by {difference:.3g} "
                    f"in {where}; the tolerance is {TOLERANCES[name]:g}. Nothing was written"
                )
            worst[name] = max(worst[name], difference)
    for place in np.flatnonzero(row["scores"] >= MIN_COMPARED_SCORE + _TIE).tolist():
        box, label = row["boxes"][place], int(row["labels"][place])
        alike = (peak for peak in peaks if peak.label == label)
        if not any(np.abs(box - peak.box_xyxy).max() <= TOLERANCES["boxes"] for peak in alike):
            raise ExportFailed(
                f"the exported graph finds label {label} at {box.tolist()} of {where} and PyTorch does not. "
                "Nothing was written"
            )
    return worst
