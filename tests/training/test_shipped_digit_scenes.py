"""The shipped digit-scenes model, asked as a client asks: from a picture's bytes to the boxes."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from PIL import ExifTags, Image

from service.engine.session import Device, Session
from service.golden import check_arrays, check_cases, check_files
from service.manifest import VERSION_FILE, GoldenCases, VersionFacts, read
from service.tasks import Limits, answer_one
from service.tasks.detection import DetectionParameters, Detections, ObjectDetection, overlap
from training.detection.annotated import AnnotatedFile
from training.detection.digit_scenes import DigitScenes
from training.job import newest_version
from training.recipes.detection_recipe import DetectionRecipe, ScenesData
from training.recipes.load import load_recipe

MODEL = Path(__file__).parents[2] / "models" / "digit-scenes"
pytestmark = pytest.mark.skipif(newest_version(MODEL) is None, reason="the model is not in this checkout")

SCENES = 24  # held-out scenes that are looked at here
SURE = 0.6  # a digit answered this surely must be answered in the other versions of the scene too
LEAST_SCORE = 0.35  # there
SAME_DIGITS = 0.97  # share that must be, of half-size and of JPEG files

Answer = Callable[[bytes], Detections]


@pytest.fixture(scope="module")
def folder() -> Path:
    newest = newest_version(MODEL)
    assert newest is not None
    return newest


@pytest.fixture(scope="module")
def answer(folder: Path) -> Answer:
    task = ObjectDetection(folder, read(folder / VERSION_FILE, VersionFacts))
    session = Session(folder / "model.onnx", Device("cpu"))
    parameters = DetectionParameters(threshold=LEAST_SCORE)
    return lambda file: cast(Detections, answer_one(task, session.run, file, Limits(), parameters))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[AnnotatedFile]:
    recipe = load_recipe("digit-scenes")
    assert isinstance(recipe, DetectionRecipe)
    data = ScenesData(test=SCENES)
    return DigitScenes(
        recipe.model_copy(update={"data": data}), tmp_path_factory.mktemp("none")
    ).held_out_files()


def picture_of(scene: AnnotatedFile) -> Image.Image:
    return Image.open(BytesIO(scene.file)).convert("RGB")


def saved(picture: Image.Image, **options: object) -> bytes:
    file = BytesIO()
    picture.save(file, **options)  # type: ignore[arg-type]
    return file.getvalue()


def edges(box: object) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    values = cast("dict[str, float]", box)
    return np.array([values[name] for name in ("x_min", "y_min", "x_max", "y_max")])


def share_found_again(
    answer: Answer, scenes: list[AnnotatedFile], change: Callable[[Image.Image], bytes], least_height: float
) -> float:
    """Tell which share of the surely answered digits of a height is answered for a changed scene too."""
    asked = again = 0
    for scene in scenes:
        picture = picture_of(scene)
        before, after = answer(scene.file), answer(change(picture))
        scale = np.array([picture.width / after["width"], picture.height / after["height"]] * 2)
        others = [(d["label"], edges(d["box"]) * scale) for d in after["detections"]]
        for detection in before["detections"]:
            box = edges(detection["box"])
            if detection["score"] < SURE or box[3] - box[1] < least_height:
                continue
            asked += 1
            same = [other for label, other in others if label == detection["label"]]
            again += bool(same) and float(overlap(box, np.array(same)).max()) >= 0.6
    assert asked > 80
    return again / asked


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


def test_a_scene_turned_by_its_exif_data_is_answered_exactly_alike(
    answer: Answer, scenes: list[AnnotatedFile]
) -> None:
    for scene in scenes[:8]:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        turned = picture_of(scene).transpose(Image.Transpose.ROTATE_90)
        assert answer(saved(turned, format="PNG", exif=exif)) == answer(scene.file)


def test_a_scene_of_half_the_size_has_the_same_digits(answer: Answer, scenes: list[AnnotatedFile]) -> None:
    def halved(picture: Image.Image) -> bytes:
        size = (picture.width // 2, picture.height // 2)
        return saved(picture.resize(size, Image.Resampling.BILINEAR), format="PNG")

    # Digits that are then still as tall as the smallest that the model knows.
    assert share_found_again(answer, scenes, halved, least_height=28) >= SAME_DIGITS


def test_a_scene_as_a_coarse_jpeg_file_has_the_same_digits(
    answer: Answer, scenes: list[AnnotatedFile]
) -> None:
    def coarse(picture: Image.Image) -> bytes:
        return saved(picture, format="JPEG", quality=50)

    assert share_found_again(answer, scenes, coarse, least_height=0) >= SAME_DIGITS


def test_a_plain_picture_has_no_digits(answer: Answer) -> None:
    for level in (0, 128, 255):
        assert not answer(saved(Image.new("RGB", (300, 200), (level,) * 3), format="PNG"))["detections"]


def test_a_picture_alone_gets_the_answer_it_gets_in_a_batch(
    folder: Path, scenes: list[AnnotatedFile]
) -> None:
    facts = read(folder / VERSION_FILE, VersionFacts)
    task = ObjectDetection(folder, facts)
    session = Session(folder / "model.onnx", Device("cpu"))
    parameters = DetectionParameters()
    batch = np.stack(
        [task.decode(scene.file, Limits(), parameters).parts[0]["image"] for scene in scenes[:5]]
    )
    together = session.run({"image": batch})
    alone = [session.run({"image": batch[i : i + 1]}) for i in range(5)]
    expected = {name: np.concatenate([row[name] for row in alone]) for name in together}
    assert max(task.differences(expected, together).values()) < 1e-4
