from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fastapi.testclient import TestClient
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from service.golden import write_golden_arrays
from service.manifest import (
    GOLDEN_CASES_FILE,
    MANIFEST_FILE,
    Batching,
    GoldenCase,
    GoldenCases,
    ImageInput,
    ModelManifest,
    write,
)
from service.tasks.image import letterbox
from tests.service.api.conftest import Start
from tests.service.api.test_tasks import assert_error
from tests.tiny_models import finish_version

ROUTE = "/v1/object-detection"
SPEC = ImageInput(width=64, height=48, channels=3, resize="letterbox", pad_value=0)


def bright_box_graph() -> onnx.ModelProto:
    """Three slots: the tight box of what is brighter than half, a copy of less score, and an empty one."""

    def constant(name: str, values: Any, dtype: Any) -> Any:
        return numpy_helper.from_array(np.array(values, dtype=dtype), name)

    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["float", "axis3"], ["grey"], keepdims=0),
        helper.make_node("Greater", ["grey", "half"], ["bright"]),
        helper.make_node("Cast", ["bright"], ["ink"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["ink", "axis1"], ["columns"], keepdims=0),
        helper.make_node("ReduceMax", ["ink", "axis2"], ["rows"], keepdims=0),
        helper.make_node("ReduceMax", ["columns", "axis1"], ["any"], keepdims=1),
    ]
    for axis, source, size in (("x", "columns", "width"), ("y", "rows", "height")):
        nodes += [
            helper.make_node("ArgMax", [source], [f"{axis}0i"], axis=1, keepdims=1),
            helper.make_node("ArgMax", [source], [f"{axis}1i"], axis=1, keepdims=1, select_last_index=1),
            helper.make_node("Cast", [f"{axis}0i"], [f"{axis}0f"], to=TensorProto.FLOAT),
            helper.make_node("Cast", [f"{axis}1i"], [f"{axis}1f"], to=TensorProto.FLOAT),
            helper.make_node("Add", [f"{axis}1f", "one"], [f"{axis}1p"]),
            helper.make_node("Div", [f"{axis}0f", size], [f"{axis}0"]),
            helper.make_node("Div", [f"{axis}1p", size], [f"{axis}1"]),
        ]
    nodes += [
        helper.make_node("Concat", ["x0", "y0", "x1", "y1"], ["box"], axis=1),
        helper.make_node("Unsqueeze", ["box", "axis1"], ["box3"]),
        helper.make_node("Mul", ["box3", "slots3"], ["boxes"]),
        helper.make_node("Mul", ["any", "slot_scores"], ["scores"]),
        helper.make_node("Mul", ["any", "slot_labels"], ["labels_float"]),
        helper.make_node("Cast", ["labels_float"], ["labels"], to=TensorProto.INT64),
    ]
    outputs: dict[str, tuple[int, list[Any]]] = {
        "boxes": (TensorProto.FLOAT, ["N", 3, 4]),
        "scores": (TensorProto.FLOAT, ["N", 3]),
        "labels": (TensorProto.INT64, ["N", 3]),
    }
    graph = helper.make_graph(
        nodes,
        "bright-box",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", SPEC.height, SPEC.width, 3])],
        [helper.make_tensor_value_info(name, *kind) for name, kind in outputs.items()],
        [
            *(constant(f"axis{i}", [i], np.int64) for i in (1, 2, 3)),
            constant("half", 127, np.float32),
            constant("one", 1, np.float32),
            constant("width", SPEC.width, np.float32),
            constant("height", SPEC.height, np.float32),
            constant("slots3", np.ones((1, 3, 1)), np.float32),
            constant("slot_scores", [[0.9, 0.6, 0.0]], np.float32),
            constant("slot_labels", [[1, 0, 0]], np.float32),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def scene(size: tuple[int, int], box: tuple[int, int, int, int] | None) -> Image.Image:
    """A dark picture with one bright box, edges in pixels."""
    picture = Image.new("RGB", size, (10, 10, 10))
    if box:
        picture.paste((250, 240, 230), box)
    return picture


def encode(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory, start: Start) -> Iterator[TestClient]:
    models: Path = tmp_path_factory.mktemp("detectors")
    folder = models / "bright" / "1"
    (folder / "golden").mkdir(parents=True)
    manifest = ModelManifest(
        name="bright", task="object-detection", batching=Batching(max_items=4), deadline_seconds=20
    )
    write(folder.parent / MANIFEST_FILE, manifest)
    onnx.save(bright_box_graph(), folder / "model.onnx")
    (folder / "labels.txt").write_text("shadow\nlamp\n")
    image = np.asarray(scene((SPEC.width, SPEC.height), (16, 12, 32, 36)))[np.newaxis]
    boxes = np.tile(np.array([0.25, 0.25, 0.5, 0.75], dtype=np.float32), (1, 3, 1))
    outputs = {
        "boxes": boxes,
        "scores": np.array([[0.9, 0.6, 0]], dtype=np.float32),
        "labels": np.array([[1, 0, 0]]),
    }
    write_golden_arrays(folder, {"image": image}, outputs)
    (folder / "golden" / "lamp.png").write_bytes(encode(scene((128, 96), (32, 24, 64, 72))))
    box = {"x_min": 32.0, "y_min": 24.0, "x_max": 64.0, "y_max": 72.0}
    found = [
        {"label": label, "score": score, "box": box} for label, score in (("lamp", 0.9), ("shadow", 0.6))
    ]
    answer: dict[str, object] = {"width": 128, "height": 96, "detections": found}
    write(folder / GOLDEN_CASES_FILE, GoldenCases(cases=(GoldenCase(file="lamp.png", answer=answer),)))
    finish_version(folder, output="boxes", input=SPEC, labels="labels.txt")
    text = (folder / "version.yaml").read_text()
    (folder / "version.yaml").write_text(
        text.replace("boxes: 0.0001", "boxes: 0.0001\n    scores: 0.0001\n    labels: 0.5")
    )
    with start(models) as client:
        assert client.get("/readyz").status_code == 200, client.get("/readyz").text
        yield client


def edges(detection: dict[str, Any]) -> list[float]:
    return [detection["box"][name] for name in ("x_min", "y_min", "x_max", "y_max")]


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((64, 48), (8, 8, 24, 40)),
        ((640, 480), (100, 200, 420, 330)),
        ((200, 600), (20, 300, 180, 420)),
        ((900, 100), (30, 20, 600, 90)),
    ],
)
def test_boxes_are_in_pixels_of_the_picture_that_was_sent(
    detector: TestClient, size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    (result,) = detector.post(ROUTE, content=encode(scene(size, box))).json()["results"]
    assert (result["width"], result["height"]) == size
    assert [d["label"] for d in result["detections"]] == ["lamp", "shadow"]
    _, _, width, height = letterbox(size, SPEC)
    pixel = max(size[0] / width, size[1] / height)  # of the input, seen in the picture
    assert edges(result["detections"][0]) == pytest.approx(box, abs=1.01 * pixel)


def test_boxes_follow_exif_rotation(detector: TestClient) -> None:
    upright = scene((300, 200), (30, 20, 120, 160))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95)
    (result,) = detector.post(ROUTE, content=turned).json()["results"]
    assert (result["width"], result["height"]) == (300, 200)
    assert edges(result["detections"][0]) == pytest.approx((30, 20, 120, 160), abs=6)


def test_threshold_and_max_detections_leave_out_the_less_sure(detector: TestClient) -> None:
    raw = encode(scene((64, 48), (8, 8, 24, 40)))
    for query, count in (("threshold=0.7", 1), ("threshold=0", 3), ("max_detections=1&threshold=0", 1)):
        (result,) = detector.post(f"{ROUTE}?{query}", content=raw).json()["results"]
        assert len(result["detections"]) == count
        scores = [d["score"] for d in result["detections"]]
        assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    "picture",
    [
        Image.new("RGB", (1, 1)),
        Image.new("RGB", (1, 10_000)),
        Image.new("L", (800, 800)),
        Image.new("CMYK", (50, 40), (255, 255, 255, 255)),
    ],
    ids=["1x1", "1x10000", "black", "cmyk"],
)
def test_a_picture_of_nothing_has_no_detections(detector: TestClient, picture: Image.Image) -> None:
    kind = "JPEG" if picture.mode == "CMYK" else "PNG"
    (result,) = detector.post(ROUTE, content=encode(picture, kind)).json()["results"]
    assert result == {"width": picture.width, "height": picture.height, "detections": []}


@pytest.mark.parametrize("threshold", ["2", "-0.1", "nan", "x"])
def test_a_threshold_out_of_range_is_422(detector: TestClient, threshold: str) -> None:
    response = detector.post(f"{ROUTE}?threshold={threshold}", content=encode(scene((64, 48), None)))
    assert_error(response, 422, "validation_error", "threshold")


def test_too_many_pixels_are_413(detector: TestClient) -> None:
    picture = encode(Image.new("1", (8_000, 8_000)))
    assert_error(detector.post(ROUTE, content=picture), 413, "too_large", "inputs[0]")


def test_the_drawn_picture_has_the_sent_ones_size_and_its_boxes(detector: TestClient) -> None:
    sent = scene((320, 240), (80, 60, 160, 180))
    response = detector.post(f"{ROUTE}?format=image", content=encode(sent))
    assert response.headers["content-type"] == "image/png"
    drawn = Image.open(BytesIO(response.content))
    assert drawn.size == sent.size
    changed = np.abs(np.asarray(drawn, dtype=int) - np.asarray(sent, dtype=int)).sum(axis=2) > 0
    rows, columns = np.nonzero(changed)
    assert 70 <= columns.min() <= 90 and rows.max() <= 190
    assert not changed[100:140, 100:140].any(), "the inside of a box is left alone"


def test_a_drawn_picture_is_of_one_picture(detector: TestClient) -> None:
    raw = encode(scene((64, 48), None))
    response = detector.post(f"{ROUTE}?format=image", files=[("file", ("x.png", raw))] * 2)
    assert_error(response, 422, "validation_error", "format")


def test_alone_equals_in_a_batch(detector: TestClient) -> None:
    raws = [encode(scene((64 + 8 * i, 48), (8, 8, 24 + i, 40))) for i in range(5)]
    together = detector.post(ROUTE, files=[("file", ("x.png", raw)) for raw in raws]).json()["results"]
    alone = [detector.post(ROUTE, content=raw).json()["results"][0] for raw in raws]
    assert together == alone
