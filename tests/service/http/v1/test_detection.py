from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import onnx
import pytest
from fastapi.testclient import TestClient
from onnx import TensorProto, helper, numpy_helper
from PIL import ExifTags, Image
from pydantic import TypeAdapter

from service.repository.golden import write_golden_arrays
from service.repository.manifest import (
    GOLDEN_CASES_FILE,
    MANIFEST_FILE,
    Batching,
    GoldenCase,
    GoldenCases,
    ImageInput,
    ModelManifest,
    write,
)
from service.tasks.image.detection import Detections
from service.tasks.image.preprocessing import letterbox
from tests.service.http.conftest import Start
from tests.service.http.v1.test_tasks import assert_error
from tests.service.tasks.image_files import TO_STORE
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


def make_detector(models: Path, name: str, batching: Batching, *, default: bool) -> None:
    folder = models / name / "1"
    (folder / "golden").mkdir(parents=True)
    manifest = ModelManifest(
        name=name, task="object-detection", batching=batching, deadline_seconds=20, default=default
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


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory, start: Start) -> Iterator[TestClient]:
    models = tmp_path_factory.mktemp("detectors")
    make_detector(models, "bright", Batching(max_items=4), default=True)
    make_detector(models, "narrow", Batching(max_items=4, max_queue_items=1), default=False)
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


@pytest.mark.parametrize("orientation", TO_STORE)
@pytest.mark.parametrize(("kind", "off"), [("PNG", 0.0), ("JPEG", 6.0)])
def test_boxes_are_in_pixels_of_the_picture_turned_upright(
    detector: TestClient, orientation: int, kind: str, off: float
) -> None:
    upright = scene((300, 200), (30, 20, 120, 160))
    (expected,) = detector.post(ROUTE, content=encode(upright)).json()["results"]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    sent = encode(upright.transpose(TO_STORE[orientation]), kind, exif=exif, quality=95)
    (result,) = detector.post(ROUTE, content=sent).json()["results"]
    assert (result["width"], result["height"]) == (300, 200)
    assert [d["label"] for d in result["detections"]] == ["lamp", "shadow"]
    assert edges(result["detections"][0]) == pytest.approx(edges(expected["detections"][0]), abs=off)
    drawn = detector.post(f"{ROUTE}?format=image", content=sent).content
    assert Image.open(BytesIO(drawn)).size == (300, 200)


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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("threshold", value) for value in ("2", "-0.1", "nan", "inf", "x", "")),
        *(("max_detections", value) for value in ("0", "-1", "1e9", "1.5", "many", "")),
        *(("format", value) for value in ("bogus", "IMAGE", "")),
        ("treshold", "0.3"),
    ],
)
def test_a_wrong_parameter_is_422_and_named(detector: TestClient, name: str, value: str) -> None:
    raw = encode(scene((64, 48), None))
    assert_error(detector.post(f"{ROUTE}?{name}={value}", content=raw), 422, "validation_error", name)
    form = detector.post(ROUTE, files=[("file", ("x.png", raw))], data={name: value})
    assert_error(form, 422, "validation_error", name)


def test_more_detections_may_be_asked_for_than_there_are(detector: TestClient) -> None:
    raw = encode(scene((64, 48), (8, 8, 24, 40)))
    (result,) = detector.post(f"{ROUTE}?max_detections=1000000000", content=raw).json()["results"]
    assert len(result["detections"]) == 2


def of_many_frames(kind: str) -> bytes:
    frames = [scene((64, 48), (8, 8, 24, 40)), scene((64, 48), None), scene((64, 48), (40, 8, 60, 40))]
    return encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)


@pytest.mark.parametrize(
    "sent",
    [
        encode(
            Image.fromarray(np.asarray(scene((64, 48), (8, 8, 24, 40)).convert("L")).astype(np.uint16) << 8)
        ),
        encode(scene((64, 48), (8, 8, 24, 40)).convert("CMYK"), "JPEG", quality=95),
        *(of_many_frames(kind) for kind in ("GIF", "WEBP", "PNG")),
        encode(scene((64, 48), (8, 8, 24, 40)).convert("P")),
        encode(scene((64, 48), (8, 8, 24, 40)).convert("1", dither=Image.Dither.NONE)),
    ],
    ids=["16 bits", "CMYK", "GIF", "WebP", "APNG", "palette", "1 bit"],
)
def test_a_box_is_found_in_every_kind_of_picture(detector: TestClient, sent: bytes) -> None:
    (result,) = detector.post(ROUTE, content=sent).json()["results"]
    assert edges(result["detections"][0]) == pytest.approx((8, 8, 24, 40), abs=1)
    assert detector.post(f"{ROUTE}?format=image", content=sent).headers["content-type"] == "image/png"


def test_a_bad_picture_among_good_ones_is_named(detector: TestClient) -> None:
    good = encode(scene((64, 48), (8, 8, 24, 40)))
    for bad in (b"", good[:60], good[:-100], b"hello"):
        files = [("file", ("x.png", raw)) for raw in (good, bad, good)]
        assert_error(detector.post(ROUTE, files=files), 400, "invalid_input", "inputs[1]")


def test_bad_requests_hurt_nobody_else(detector: TestClient) -> None:
    good = encode(scene((64, 48), (8, 8, 24, 40)))
    expected = detector.post(ROUTE, content=good).json()["results"]
    bad = [good[:60], b"", encode(Image.new("1", (8_000, 8_000))), b"%PDF-1.7"]

    def ask(index: int) -> Any:
        raw = good if index % 2 else bad[index // 2 % len(bad)]
        return detector.post(ROUTE, content=raw, headers={"Content-Type": "image/png"})

    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(ask, range(64)))
    assert all(answer.json()["results"] == expected for answer in answers[1::2])
    assert {answer.status_code for answer in answers[::2]} == {400, 413, 415}


def test_too_many_pixels_are_413(detector: TestClient) -> None:
    picture = encode(Image.new("1", (8_000, 8_000)))
    assert_error(detector.post(ROUTE, content=picture), 413, "too_large", "inputs[0]")


@pytest.mark.parametrize("way", ["raw", "form", "json"])
def test_the_drawn_picture_is_the_sent_one_with_lines_around_what_was_found(
    detector: TestClient, way: str
) -> None:
    sent = scene((320, 240), (80, 60, 160, 180))
    raw = encode(sent)
    encoded = [base64.b64encode(raw).decode()]
    ways: dict[str, dict[str, Any]] = {
        "raw": {"content": raw, "params": {"format": "image"}},
        "form": {"files": [("file", ("x.png", raw))], "data": {"format": "image", "threshold": "0.7"}},
        "json": {"json": {"inputs": encoded, "parameters": {"format": "image"}}},
    }
    response = detector.post(ROUTE, **ways[way])
    assert response.headers["content-type"] == "image/png"
    assert len(response.headers["x-request-id"]) == 32
    drawn = Image.open(BytesIO(response.content))
    assert drawn.size == sent.size
    changed = (np.asarray(drawn) != np.asarray(sent)).any(axis=2)
    assert not changed[65:175, 85:155].any(), "the inside of a box is left alone"
    assert changed[75:165, 70:80].any() and changed[75:165, 160:170].any()
    assert not changed[:, :70].any() and not changed[:, 170:].any()


def test_what_asks_for_a_picture_is_told_of_errors_in_json(detector: TestClient) -> None:
    assert_error(detector.post(f"{ROUTE}?format=image", content=b"hello"), 400, "invalid_input", "inputs[0]")


def test_a_picture_that_is_drawn_too_late_is_504(
    detector: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = Event()

    def slow(body: bytes, result: Detections, max_pixels: int) -> bytes:
        over.wait(30)
        return b""

    monkeypatch.setattr("service.http.v1.detection.draw_detections", slow)
    raw = encode(scene((64, 48), (8, 8, 24, 40)))
    try:
        late = detector.post(f"{ROUTE}?format=image", content=raw, headers={"X-Timeout-Ms": "1500"})
    finally:
        over.set()
    assert_error(late, 504, "deadline_exceeded")
    assert "drawn" in late.json()["error"]["message"]


def test_a_drawn_picture_is_of_one_picture(detector: TestClient) -> None:
    raw = encode(scene((64, 48), None))
    response = detector.post(f"{ROUTE}?format=image", files=[("file", ("x.png", raw))] * 2)
    assert_error(response, 422, "validation_error", "format")


def test_alone_equals_in_a_batch(detector: TestClient) -> None:
    raws = [encode(scene((64 + 8 * i, 48), (8, 8, 24 + i, 40))) for i in range(5)]
    together = detector.post(ROUTE, files=[("file", ("x.png", raw)) for raw in raws]).json()["results"]
    alone = [detector.post(ROUTE, content=raw).json()["results"][0] for raw in raws]
    assert together == alone


def test_the_openapi_document_describes_parameters_pictures_and_boxes(detector: TestClient) -> None:
    document = detector.get("/openapi.json").json()
    operation = document["paths"][ROUTE]["post"]
    names = {"model", "version", "threshold", "max_detections", "format"}
    assert {p["name"] for p in operation["parameters"]} == {*names, "X-Timeout-Ms", "X-Priority"}
    sent = {kind: content["schema"] for kind, content in operation["requestBody"]["content"].items()}
    assert sent["multipart/form-data"]["properties"].keys() == {"file", *names}
    assert sent["application/json"]["properties"]["parameters"]["properties"].keys() == names
    answered = operation["responses"]["200"]["content"]
    assert answered["image/png"]["schema"] == {"type": "string", "format": "binary"}
    example = document["components"]["schemas"]["Detections"]["example"]
    assert TypeAdapter(Detections).validate_python(example) == example
