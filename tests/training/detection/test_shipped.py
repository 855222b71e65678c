"""The shipped digit-scenes model, asked as a client asks: from a picture's bytes to the boxes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image

from service.engine.runtime.session import Device, Session
from service.repository.golden import check_arrays, check_cases, check_files
from service.repository.manifest import VERSION_FILE, GoldenCases, VersionFacts, read
from service.tasks import Limits, answer_one
from service.tasks.image.detection import (
    Detection,
    DetectionParameters,
    Detections,
    ObjectDetection,
    box_iou,
)
from tests.service.tasks.image_files import TO_STORE
from training.core.job import newest_version
from training.detection.dataset import AnnotatedImage
from training.detection.scenes.source import DigitScenes
from training.recipes.detection_recipe import DetectionRecipe, ScenesData
from training.recipes.load import load_recipe

MODEL = Path(__file__).parents[3] / "models" / "digit-scenes"
pytestmark = pytest.mark.skipif(newest_version(MODEL) is None, reason="the model is not in this checkout")

SCENES = 48  # held-out scenes that are looked at here; the slow test looks at all 400
# Two pictures of one scene have the same digits if each that is sure in one is found in the other: the same
# label, no less sure than `FOUND`, in a box that shares `SAME_PLACE` with its own. Scores move a little with
# the pixels, so a single threshold would count every digit that is just above it in one and below it in
# the other; half the pixels place an edge by one pixel of the smaller picture, 7% of its smallest digits.
SURE, FOUND, SAME_PLACE = 0.6, 0.35, 0.7
SAME_DIGITS = 0.98  # share of the sure digits of both pictures; measured: 0.993 of half-size files, 1 of JPEG

Answer = Callable[[bytes], Detections]
Change = Callable[[Image.Image], bytes]
Pair = tuple[Detections, Detections]
Edges = NDArray[np.float64]


@pytest.fixture(scope="module")
def folder() -> Path:
    newest = newest_version(MODEL)
    assert newest is not None
    return newest


@pytest.fixture(scope="module")
def answer(folder: Path) -> Answer:
    task = ObjectDetection(folder, read(folder / VERSION_FILE, VersionFacts))
    session = Session(folder / "model.onnx", Device("cpu"))
    parameters = DetectionParameters(threshold=FOUND)

    @cache
    def answer(file: bytes) -> Detections:
        return cast(Detections, answer_one(task, session.run, file, Limits(), parameters))

    return answer


def held_out(count: int, cache: Path) -> list[AnnotatedImage]:
    recipe = load_recipe("digit-scenes")
    assert isinstance(recipe, DetectionRecipe)
    data = ScenesData(test=count)
    return DigitScenes(recipe.model_copy(update={"data": data}), cache).held_out_files()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[AnnotatedImage]:
    return held_out(SCENES, tmp_path_factory.mktemp("none"))


def picture_of(scene: AnnotatedImage) -> Image.Image:
    return Image.open(BytesIO(scene.file)).convert("RGB")


def saved(picture: Image.Image, **options: object) -> bytes:
    file = BytesIO()
    picture.save(file, **options)  # type: ignore[arg-type]
    return file.getvalue()


def edges(detection: Detection, scale: tuple[float, float] = (1, 1)) -> Edges:
    box = detection["box"]
    return np.array([box["x_min"], box["y_min"], box["x_max"], box["y_max"]]) * [*scale, *scale]


def found_again(of: Detections, among: Detections, sure: float, found: float) -> list[bool]:
    """Tell of each digit that is sure in one picture of a scene whether the other has it."""
    scale = of["width"] / among["width"], of["height"] / among["height"]
    others = [(d["label"], edges(d, scale)) for d in among["detections"] if d["score"] >= found]
    again = []
    for detection in of["detections"]:
        if detection["score"] >= sure:
            same = np.array([box for label, box in others if label == detection["label"]]).reshape(-1, 4)
            overlaps = box_iou(edges(detection), same)
            again.append(bool(overlaps.max(initial=0.0) >= SAME_PLACE))
    return again


def pairs_of(answer: Answer, scenes: list[AnnotatedImage], change: Change) -> list[Pair]:
    return [(answer(scene.file), answer(change(picture_of(scene)))) for scene in scenes]


def both_ways(pair: Pair, sure: float = SURE, found: float = FOUND) -> list[bool]:
    """Tell which of the sure digits of two pictures are found again in the other."""
    return found_again(*pair, sure, found) + found_again(*pair[::-1], sure, found)


def halved(picture: Image.Image) -> bytes:
    size = (picture.width // 2, picture.height // 2)
    return saved(picture.resize(size, Image.Resampling.BILINEAR), format="PNG")


def coarse(picture: Image.Image) -> bytes:
    return saved(picture, format="JPEG", quality=50)


def turned(picture: Image.Image, orientation: int, **options: object) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return saved(picture.transpose(TO_STORE[orientation]), exif=exif, **options)


def test_the_shipped_version_passes_its_golden_check(folder: Path) -> None:
    facts = read(folder / VERSION_FILE, VersionFacts)
    task = ObjectDetection(folder, facts)
    run = Session(folder / facts.variants[0].file, Device("cpu")).run
    check_files(folder, facts)
    check_arrays(folder, facts.variants[0], task, run)
    check_cases(folder, task, run, Limits())
    assert len(read(folder / "golden" / "golden.yaml", GoldenCases).cases) >= 4
    assert (folder / "model.onnx").stat().st_size < 5_000_000


def test_the_shipped_figures_are_at_least_what_was_asked_for(folder: Path) -> None:
    metrics = read(folder / VERSION_FILE, VersionFacts).metrics
    assert float(metrics["ap"]) >= 0.80
    assert float(metrics["ap50"]) >= 0.97
    assert metrics["held_out_items"] == 400


def test_the_card_names_the_figures_of_the_version(folder: Path) -> None:
    metrics = read(folder / VERSION_FILE, VersionFacts).metrics
    card = (MODEL / "README.md").read_text(encoding="utf-8")
    for name in ("ap", "ap50"):
        assert f"{float(metrics[name]):.4f}" in card


@pytest.mark.parametrize("orientation", TO_STORE)
def test_a_scene_turned_by_its_exif_data_is_answered_exactly_alike(
    answer: Answer, scenes: list[AnnotatedImage], orientation: int
) -> None:
    for scene in scenes[:8]:
        assert answer(turned(picture_of(scene), orientation, format="PNG")) == answer(scene.file)


@pytest.mark.parametrize("orientation", TO_STORE)
def test_a_turned_jpeg_file_has_the_same_digits(
    answer: Answer, scenes: list[AnnotatedImage], orientation: int
) -> None:
    """Its blocks lie otherwise on the scene, so its pixels are not the same."""

    def change(picture: Image.Image) -> bytes:
        return turned(picture, orientation, format="JPEG", quality=90)

    again = list(chain.from_iterable(map(both_ways, pairs_of(answer, scenes[:8], change))))
    assert len(again) > 50 and np.mean(again) >= SAME_DIGITS


@pytest.mark.parametrize("change", [halved, coarse])
def test_a_scene_of_half_the_size_or_as_a_coarse_jpeg_file_has_the_same_digits(
    answer: Answer, scenes: list[AnnotatedImage], change: Change
) -> None:
    again = list(chain.from_iterable(map(both_ways, pairs_of(answer, scenes, change))))
    assert len(again) > 400 and np.mean(again) >= SAME_DIGITS


@pytest.mark.slow
@pytest.mark.parametrize(("change", "row"), [(halved, "half the size"), (coarse, "JPEG of quality 50")])
def test_the_card_tells_how_many_digits_are_found_again(
    answer: Answer, tmp_path: Path, change: Change, row: str
) -> None:
    pairs = pairs_of(answer, held_out(400, tmp_path), change)
    by_scene = [both_ways(pair) for pair in pairs]
    again = list(chain.from_iterable(by_scene))
    at_threshold = list(chain.from_iterable(both_ways(pair, 0.5, 0.5) for pair in pairs))
    cells = f"{len(again)} | {np.mean(again):.2%} | {sum(map(all, by_scene))} | {np.mean(at_threshold):.2%}"
    assert f"| {row} | {cells} |" in (MODEL / "README.md").read_text(encoding="utf-8")


def test_a_plain_picture_has_no_digits(answer: Answer) -> None:
    for level in (0, 128, 255):
        assert not answer(saved(Image.new("RGB", (300, 200), (level,) * 3), format="PNG"))["detections"]


def test_a_picture_alone_gets_the_answer_it_gets_in_a_batch(
    folder: Path, answer: Answer, scenes: list[AnnotatedImage]
) -> None:
    """Kernels add up in another order for another batch: in the last digits, no more."""
    task = ObjectDetection(folder, read(folder / VERSION_FILE, VersionFacts))
    session = Session(folder / "model.onnx", Device("cpu"))
    parameters = DetectionParameters(threshold=FOUND)
    decoded = [task.decode(scene.file, Limits(), parameters) for scene in scenes]
    alone = [answer(scene.file) for scene in scenes]
    for size in (2, 5, 8):
        for first in range(0, len(scenes), size):
            batch = decoded[first : first + size]
            outputs = session.run({"image": np.stack([item.parts[0]["image"] for item in batch])})
            for i, item in enumerate(batch):
                row = {name: array[i] for name, array in outputs.items()}
                together = cast(Detections, task.answer([row], item, parameters))
                same_answers(alone[first + i], together)


def same_answers(one: Detections, other: Detections) -> None:
    assert (one["width"], one["height"]) == (other["width"], other["height"])
    by_place = [
        sorted(answer["detections"], key=lambda d: (d["label"], d["box"]["x_min"], d["box"]["y_min"]))
        for answer in (one, other)
    ]
    assert len(by_place[0]) == len(by_place[1])
    for a, b in zip(*by_place, strict=True):
        assert a["label"] == b["label"]
        assert a["score"] == pytest.approx(b["score"], abs=1e-4)
        assert edges(a) == pytest.approx(edges(b), abs=0.02)  # two steps of what answers are rounded to
