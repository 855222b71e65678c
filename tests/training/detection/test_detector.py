import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.tasks.image.detection import MIN_COMPARED_SCORE
from training.detection.augmentation import change_colors, move_images
from training.detection.losses import Targets, losses, overlaps, spread_over_points
from training.detection.reference_decoder import decode_heads
from training.networks.detector import STRIDE, Detector, DetectorOutputs, pick_peaks
from training.recipes.detection_recipe import DetectorSize

SIZE = DetectorSize(stem=8, widths=(8, 12, 16, 16), blocks=(1, 1, 1, 1), neck=12, slots=20)


def perfect_heads(truth: Targets, classes: int, points: int) -> DetectorOutputs:
    """DetectorOutputs that say at every point about a thing what is true of it."""
    heat = torch.full((len(truth.labels), classes, points, points), -12.0)
    distances = torch.full((len(truth.labels), 4, points, points), 8.0)
    patches = spread_over_points(truth, points, points)
    for picture, thing in (truth.labels >= 0).nonzero().tolist():
        box, label = truth.boxes_xyxy[picture, thing], int(truth.labels[picture, thing])
        for place, weight in zip(
            patches.place[picture, thing].tolist(), patches.weight[picture, thing].tolist(), strict=True
        ):
            if weight < 0.05:
                continue
            row, column = divmod(place, points)
            x, y = (column + 0.5) * STRIDE, (row + 0.5) * STRIDE
            distances[picture, :, row, column] = torch.stack([x - box[0], y - box[1], box[2] - x, box[3] - y])
            if weight == 1:
                heat[picture, label, row, column] = 12.0
    return DetectorOutputs(heat, distances, torch.full((len(truth.labels), 1, points, points), 12.0))


def example_truth() -> Targets:
    boxes = torch.tensor(
        [[[4.0, 6.0, 30.0, 50.0], [40.0, 8.0, 60.0, 30.0]], [[10.0, 20.0, 22.0, 31.0], [0] * 4]]
    )
    return Targets(boxes, torch.tensor([[1, 0], [2, -1]]))


def test_saying_what_is_true_costs_next_to_nothing_and_is_found_again() -> None:
    truth = example_truth()
    heads = perfect_heads(truth, 3, 16)
    found = losses(heads, truth)
    assert float(found.heat) < 1e-3
    assert float(found.box) < 1e-4
    assert float(found.quality) < 1e-3
    boxes, scores, labels = pick_peaks(heads, 5, torch.ones(()))
    assert (scores > 0.9).sum(dim=1).tolist() == [2, 1]
    found_first = {int(label): box * 64 for label, box in zip(labels[0, :2], boxes[0, :2], strict=True)}
    torch.testing.assert_close(found_first[1], truth.boxes_xyxy[0, 0])
    torch.testing.assert_close(found_first[0], truth.boxes_xyxy[0, 1])


def test_any_mistake_costs_more() -> None:
    truth = example_truth()
    heads = perfect_heads(truth, 3, 16)
    none = float(losses(heads, truth).total)
    too_hot = DetectorOutputs(heads.heat + 12, heads.distances, heads.quality)
    too_large = DetectorOutputs(heads.heat, heads.distances * 1.5, heads.quality)
    assert float(losses(too_hot, truth).heat) > none + 1
    assert float(losses(too_large, truth).box) > 0.3
    assert float(losses(too_large, truth).quality) > 1


def test_losses_have_the_values_that_their_papers_formulas_give() -> None:
    # One thing, 8 x 8 pixels, about the point of column 1 and row 1: only its own point has box weight.
    truth = Targets(torch.tensor([[[2.0, 2.0, 10.0, 10.0]]]), torch.zeros(1, 1, dtype=torch.long))
    heads = DetectorOutputs(torch.zeros(1, 1, 4, 4), torch.full((1, 4, 4, 4), 2.0), torch.zeros(1, 1, 4, 4))
    found = losses(heads, truth)
    # Heat is 1/2 everywhere: (1/2)^2 ln 2 at the centre, (1 - target)^4 (1/2)^2 ln 2 at each other point,
    # and the target is a Gaussian with a deviation of 0.6 points.
    rows = torch.arange(4.0)
    far = (rows[:, None] - 1) ** 2 + (rows[None] - 1) ** 2
    elsewhere = ((1 - torch.exp(-far / (2 * 0.6**2))) ** 4).sum()
    assert float(found.heat) == pytest.approx(0.25 * math.log(2) * (1 + float(elsewhere)), rel=1e-5)
    first = torch.tensor([[4.0, 4, 8, 8], [0.0, 0, 2, 2]])  # one inside of the other, and one apart
    second = torch.tensor([[2.0, 2, 10, 10], [3.0, 3, 5, 5]])
    plain, generalised = overlaps(first, second)
    assert plain.tolist() == pytest.approx([16 / 64, 0])
    assert generalised.tolist() == pytest.approx([16 / 64, -(25 - 8) / 25])
    # Logits of quality are 0, so that each point's cross entropy is ln 2 whatever the overlap.
    assert float(found.quality) == pytest.approx(math.log(2), rel=1e-5)


def test_a_picture_with_nothing_in_it_can_be_learnt_from() -> None:
    truth = Targets(torch.zeros(1, 1, 4), torch.full((1, 1), -1))
    heads = DetectorOutputs(*(torch.zeros(1, n, 8, 8, requires_grad=True) for n in (3, 4, 1)))
    total = losses(heads, truth).total
    total.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(total)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=8, max_size=8))
def test_overlap_is_symmetric_within_its_range_and_1_for_the_same_box(numbers: list[float]) -> None:
    corners = torch.tensor(numbers).reshape(2, 4)
    boxes = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:] + 1], dim=1)
    first, second = boxes[:1], boxes[1:]
    plain, generalised = overlaps(first, second)
    torch.testing.assert_close(plain, overlaps(second, first)[0])
    assert -1 <= float(generalised) <= float(plain) + 1e-6 <= 1 + 2e-6
    assert float(overlaps(first, first)[1]) == pytest.approx(1)


def test_peaks_are_those_of_the_independent_decoder_box_by_box() -> None:
    torch.manual_seed(3)
    heat = torch.linspace(-9, 9, 3 * 4 * 12 * 12)[torch.randperm(3 * 4 * 12 * 12)].reshape(3, 4, 12, 12)
    heat[0, 0, 0, 0] = heat[0, 1, 11, 11] = 40.0  # in corners, and beyond what a sigmoid tells apart
    heat[0, 0, 0, 1] = 39.0
    heads = DetectorOutputs(heat, torch.rand(3, 4, 12, 12) * 20, torch.randn(3, 1, 12, 12))
    boxes, scores, labels = pick_peaks(heads, 90, torch.tensor(0.6))
    for number, peaks in enumerate(decode_heads(heads, 90, STRIDE, 0.6)):
        assert len(peaks) > 10
        assert all(peak.sure for peak in peaks)
        assert int((scores[number] >= MIN_COMPARED_SCORE).sum()) == len(peaks)
        for place, peak in enumerate(peaks):
            assert int(labels[number, place]) == peak.label
            assert float(scores[number, place]) == pytest.approx(peak.score, abs=1e-5)
            np.testing.assert_allclose(boxes[number, place].numpy(), peak.box_xyxy, atol=1e-5)


def test_what_rounding_decides_is_not_sure() -> None:
    heat = torch.full((1, 1, 8, 8), -8.0)
    heat[0, 0, 1, 1] = heat[0, 0, 1, 2] = 3.0  # neighbours that are alike
    heat[0, 0, 5, 1], heat[0, 0, 5, 5], heat[0, 0, 7, 3] = 2.0, 1.0, 1.0001  # the last two for one slot
    heads = DetectorOutputs(heat, torch.full((1, 4, 8, 8), 6.0), torch.full((1, 1, 8, 8), 9.0))
    (peaks,) = decode_heads(heads, 4, STRIDE, 1.0)
    assert [peak.sure for peak in peaks] == [False, False, True, False, False]
    assert [peak.sure for peak in decode_heads(heads, 5, STRIDE, 1.0)[0]] == [False, False, True, True, True]


def test_a_picture_alone_is_answered_as_in_a_batch() -> None:
    torch.manual_seed(0)
    network = Detector(5, SIZE).eval()
    images = torch.randint(0, 256, (4, 96, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        together = network(images)
        for i in range(4):
            alone = network(images[i : i + 1])
            torch.testing.assert_close(alone[0][0], together[0][i], atol=1e-5, rtol=0)
            torch.testing.assert_close(alone[1][0], together[1][i], atol=1e-5, rtol=0)


def test_relighting_keeps_pixels_in_range_and_is_repeatable() -> None:
    images = torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8)
    first, again = (change_colors(images, torch.Generator().manual_seed(5), invert=True) for _ in range(2))
    assert torch.equal(first, again)
    assert 0 <= float(first.min()) <= float(first.max()) <= 255
    assert torch.equal(first, first.round())


@pytest.mark.parametrize("mirror", [True, False])
def test_moved_pictures_take_their_boxes_along(mirror: bool) -> None:
    images = torch.full((16, 64, 64, 3), 120.0)
    images[:, 20:44, 16:36] = 250.0
    truth = Targets(
        torch.tensor([[[16.0, 20.0, 36.0, 44.0]]]).repeat(16, 1, 1), torch.zeros(16, 1, dtype=torch.long)
    )
    moved, boxes = move_images(images, truth, torch.Generator().manual_seed(2), mirror=mirror)
    kept = boxes.labels[:, 0] >= 0
    assert int(kept.sum()) > 8
    for picture, box in zip(moved[kept], boxes.boxes_xyxy[kept, 0], strict=True):
        bright = picture[..., 0] > 190
        rows, columns = bright.any(dim=1).nonzero(), bright.any(dim=0).nonzero()
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(np.array(found, dtype=float), box.numpy(), atol=1.5)
