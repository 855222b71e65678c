from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.errors import ModelRejected
from service.repository.manifest import ImageInput
from service.tasks.image.detection import ObjectDetection, box_iou, unletterbox
from service.tasks.image.preprocessing import letterbox
from tests.tiny_models import finish_version, make_model

sides = st.integers(1, 4000)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> ObjectDetection:
    return detection_task(tmp_path_factory.mktemp("detection"))


def detection_task(folder: Path, **fields: Any) -> ObjectDetection:
    from service.repository.manifest import VERSION_FILE, VersionFacts, read

    version = make_model(folder)
    finish_version(version, input=ImageInput(width=64, height=64, resize="letterbox", **fields))
    return ObjectDetection(version, read(version / VERSION_FILE, VersionFacts))


def outputs(*rows: tuple[list[float], float, int]) -> dict[str, NDArray[Any]]:
    """A batch of one image."""
    return {
        "boxes": np.array([[row[0] for row in rows]], dtype=np.float32).reshape(1, -1, 4),
        "scores": np.array([[row[1] for row in rows]], dtype=np.float32),
        "labels": np.array([[row[2] for row in rows]], dtype=np.int64),
    }


def result(*found: tuple[str, float, tuple[float, float, float, float]], width: int = 100) -> dict[str, Any]:
    names = ("x_min", "y_min", "x_max", "y_max")
    return {
        "width": width,
        "height": 50,
        "detections": [
            {"label": label, "score": score, "box": dict(zip(names, box, strict=True))}
            for label, score, box in found
        ],
    }


A = ("one", 0.9, (10.0, 10.0, 30.0, 40.0))
B = ("two", 0.8, (50.0, 5.0, 90.0, 45.0))
FIRST: tuple[list[float], float, int] = ([0.1, 0.1, 0.4, 0.4], 0.9, 1)
SECOND: tuple[list[float], float, int] = ([0.5, 0.5, 0.9, 0.9], 0.8, 2)


@given(sides, sides, sides, sides)
def test_the_letterbox_is_inverted_exactly(width: int, height: int, across: int, down: int) -> None:
    spec = ImageInput(width=min(across, 500), height=min(down, 500), resize="letterbox")
    left, top, inner_width, inner_height = letterbox((width, height), spec)
    whole = np.array([[left, top, left + inner_width, top + inner_height]], dtype=np.float64)
    shares = (whole / [spec.width, spec.height, spec.width, spec.height]).astype(np.float32)
    back = unletterbox(shares, (width, height), spec)
    # Boxes are float32: an edge is off by at most half a step of that, stretched as the image is.
    step = float(np.finfo(np.float32).eps) * max(spec.width, spec.height)
    stretch = max(width / inner_width, height / inner_height)
    np.testing.assert_allclose(back, [[0, 0, width, height]], rtol=0, atol=step * stretch)


@given(st.lists(st.floats(-1, 2), min_size=4, max_size=4))
def test_boxes_never_leave_the_image(edges: list[float]) -> None:
    spec = ImageInput(width=64, height=64, resize="letterbox")
    (box,) = unletterbox(np.array([edges], dtype=np.float32), (200, 100), spec)
    assert ((box >= 0) & (box <= [200, 100, 200, 100])).all()


def test_overlap_is_one_for_the_same_box_and_none_for_strangers() -> None:
    boxes = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6], [1, 1, 1, 1]], dtype=np.float32)
    assert box_iou(boxes[0], boxes) == pytest.approx([1, 1 / 3, 0, 0])


def test_the_same_detections_in_another_order_and_slot_do_not_differ(task: ObjectDetection) -> None:
    empty: tuple[list[float], float, int] = ([0, 0, 0, 0], 0.01, 3)
    assert task.differences(outputs(FIRST, SECOND, empty), outputs(empty, SECOND, FIRST)) == {
        "boxes": 0,
        "scores": 0,
        "labels": 0,
    }


def test_moved_boxes_and_changed_scores_differ_by_as_much(task: ObjectDetection) -> None:
    moved: tuple[list[float], float, int] = ([0.1, 0.1, 0.41, 0.4], 0.88, 1)
    differences = task.differences(outputs(FIRST, SECOND), outputs(moved, SECOND))
    assert differences == pytest.approx({"boxes": 0.01, "scores": 0.02, "labels": 0}, abs=1e-6)


def test_a_score_that_is_no_number_is_told_as_such(task: ObjectDetection) -> None:
    faint: tuple[list[float], float, int] = ([0.5, 0.5, 0.9, 0.9], 0.3, 2)
    unknown: tuple[list[float], float, int] = ([0.5, 0.5, 0.9, 0.9], float("nan"), 2)
    assert np.isnan(task.differences(outputs(FIRST, faint), outputs(FIRST, unknown))["scores"])


@pytest.mark.parametrize(
    "got",
    [
        outputs(FIRST, ([0.5, 0.5, 0.9, 0.9], 0.8, 3)),
        outputs(FIRST, ([0.0, 0.5, 0.3, 0.9], 0.8, 2)),
        outputs(FIRST, FIRST),
    ],
    ids=["another label", "another place", "missing"],
)
def test_another_or_a_missing_detection_is_beyond_all_tolerance(
    task: ObjectDetection, got: dict[str, NDArray[Any]]
) -> None:
    assert task.differences(outputs(FIRST, SECOND), got)["boxes"] == float("inf")


def test_a_detection_too_many_is_beyond_all_tolerance(task: ObjectDetection) -> None:
    nothing: tuple[list[float], float, int] = ([0, 0, 0, 0], 0.0, 0)
    assert task.differences(outputs(FIRST, nothing), outputs(FIRST, SECOND))["scores"] == float("inf")


def test_like_answers_agree_whatever_their_order(task: ObjectDetection) -> None:
    near = ("one", 0.895, (10.2, 10.0, 30.0, 40.1))
    assert task.agrees(result(A, B), result(B, near), 0.01) is None
    assert task.agrees(result(), result(), 0.01) is None


@pytest.mark.parametrize(
    ("got", "reason"),
    [
        (result(A), "1 detections, expected 2"),
        (result(A, A), "no 'two'"),
        (result(A, ("two", 0.8, (0.0, 5.0, 40.0, 45.0))), "no 'two'"),
        (result(A, ("two", 0.7, B[2])), "score 0.7000"),
        (result(A, B, width=101), "101 x 50"),
    ],
)
def test_answers_that_differ_say_how(task: ObjectDetection, got: dict[str, Any], reason: str) -> None:
    problem = task.agrees(result(A, B), got, 0.01)
    assert problem is not None and reason in problem


def test_a_golden_answer_that_is_none_is_refused(task: ObjectDetection) -> None:
    assert task.agrees({"detections": 3}, result(), 0.01)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"labels": np.zeros((1, 3), dtype=np.int64)}, "do not match"),
        ({"boxes": np.zeros((1, 2, 3), dtype=np.float32)}, "do not match"),
        ({"labels": np.array([[0, 9]])}, "up to 9"),
        ({"scores": np.array([[0.5, 1.5]], dtype=np.float32)}, "outside of 0 to 1"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(
    task: ObjectDetection, changes: dict[str, Any], reason: str
) -> None:
    task.check_outputs(outputs(FIRST, SECOND))
    with pytest.raises(ModelRejected, match=reason):
        task.check_outputs({**outputs(FIRST, SECOND), **changes})


def test_an_input_without_letterbox_is_refused(tmp_path: Path) -> None:
    from service.repository.manifest import VERSION_FILE, VersionFacts, read

    version = make_model(tmp_path)
    with pytest.raises(ModelRejected, match="letterbox"):
        ObjectDetection(version, read(version / VERSION_FILE, VersionFacts))
