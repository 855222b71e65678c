from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from service.repository.manifest import ImageInput
from service.tasks.image.detection import unletterbox
from tests.training.data.fixtures import packages_hold
from tests.training.detection.fixtures import tiny_scenes_recipe
from training.detection.dataset import letterbox_boxes
from training.detection.scenes import wallpapers
from training.detection.scenes.backgrounds import LUMINANCE, bundled_photograph
from training.detection.scenes.clutter import SIGNS
from training.detection.scenes.compose import (
    LARGEST_OVERLAP,
    LARGEST_SIDE,
    MOST,
    SHORTEST,
    SMALLEST_SIDE,
    TALLEST,
    Scene,
    SceneMaterial,
    compose,
)
from training.detection.scenes.digit_ink import HALF, Handwriting, smooth_field, write_digit
from training.detection.scenes.source import DigitScenes, degrade_scene


@pytest.fixture(scope="module")
def stock() -> SceneMaterial:
    data = load_digits()
    pixels = (data.images[:40] * (255 / 16)).round().astype(np.uint8)
    fields = [smooth_field(digit) for digit in pixels]
    return SceneMaterial(fields, data.target[:40].astype(np.int64), [bundled_photograph("china.jpg")])


@pytest.fixture(scope="module")
def scenes(stock: SceneMaterial) -> list[Scene]:
    return [compose(stock, np.random.default_rng(number)) for number in range(30)]


def test_the_same_numbers_compose_the_same_scene(stock: SceneMaterial, scenes: list[Scene]) -> None:
    again = compose(stock, np.random.default_rng(3))
    np.testing.assert_array_equal(again.picture, scenes[3].picture)
    np.testing.assert_array_equal(again.boxes_xyxy, scenes[3].boxes_xyxy)
    assert not np.array_equal(scenes[3].boxes_xyxy, scenes[4].boxes_xyxy)


def test_scenes_keep_within_their_bounds(scenes: list[Scene]) -> None:
    for scene in scenes:
        height, width, _ = scene.picture.shape
        assert SMALLEST_SIDE <= min(width, height) <= max(width, height) <= LARGEST_SIDE
        assert 1 <= len(scene.labels) <= MOST
        assert (scene.boxes_xyxy >= 0).all()
        assert (scene.boxes_xyxy[:, 2:] <= (width, height)).all()
        tall = scene.boxes_xyxy[:, 3] - scene.boxes_xyxy[:, 1]
        assert SHORTEST <= tall.min() <= tall.max() <= TALLEST + 1


def test_digits_of_a_scene_overlap_little(scenes: list[Scene]) -> None:
    for scene in scenes:
        boxes = scene.boxes_xyxy
        for i, one in enumerate(boxes):
            for other in boxes[:i]:
                shared = (np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])).clip(0).prod()
                smaller = min((box[2:] - box[:2]).prod() for box in (one, other))
                assert shared <= LARGEST_OVERLAP * smaller


def test_scenes_are_of_every_look(scenes: list[Scene]) -> None:
    assert {scene.look.background for scene in scenes} == {"photograph", "texture", "lines", "plain"}
    assert {scene.look.contrast for scene in scenes} == {"low", "medium", "high"}
    assert {scene.look.dark_on_light for scene in scenes} == {True, False}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 39), st.integers(14, 120), st.integers(0, 2**32))
def test_ink_touches_all_four_edges_of_its_box(digit: int, height: int, seed: int) -> None:
    pixels = (load_digits().images[digit] * (255 / 16)).round().astype(np.uint8)
    ink = write_digit(smooth_field(pixels), height, Handwriting.draw(np.random.default_rng(seed)))
    for edge in (ink[0], ink[-1], ink[:, 0], ink[:, -1]):
        assert edge.max() >= HALF
    assert height - 3 <= len(ink) <= height


def test_a_box_is_the_tight_ink_that_a_scene_shows(stock: SceneMaterial) -> None:
    calm = next(
        scene
        for scene in (compose(stock, np.random.default_rng(number)) for number in range(100, 400))
        if scene.look.background == "plain" and scene.look.contrast == "high" and len(scene.labels) == 1
    )
    left, top, right, bottom = calm.boxes_xyxy[0]
    grey = calm.picture.astype(np.float32) @ LUMINANCE
    around = np.median(grey[max(0, top - 4) : bottom + 4, max(0, left - 4) : right + 4])
    inked = np.abs(grey - around) > 0.5 * np.abs(grey[top:bottom, left:right] - around).max()
    rows = np.flatnonzero(inked[:, left:right].any(axis=1))
    columns = np.flatnonzero(inked[top:bottom].any(axis=0))
    near = (
        rows[(rows >= top - 6) & (rows < bottom + 6)],
        columns[(columns >= left - 6) & (columns < right + 6)],
    )
    found = (near[1].min(), near[0].min(), near[1].max() + 1, near[0].max() + 1)
    assert np.abs(np.array(found) - calm.boxes_xyxy[0]).max() <= 1


def test_no_sign_of_the_clutter_resembles_a_digit() -> None:
    assert not set(SIGNS) & set("0123456789OoQDIlZzSsGBbgq|TtJj")


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.tuples(*[st.floats(0, 1)] * 4), st.integers(1, 20))
def test_the_letterbox_is_exactly_inverted(
    width: int, height: int, shares: tuple[float, ...], blocks: int
) -> None:
    spec = ImageInput(width=32 * blocks, height=416, channels=3, resize="letterbox")
    box = np.array([[shares[0] * width, shares[1] * height, shares[2] * width, shares[3] * height]])
    moved = letterbox_boxes(box, (width, height), spec) / np.array([spec.width, spec.height] * 2)
    back = unletterbox(moved.astype(np.float32), (width, height), spec)
    np.testing.assert_allclose(back, box, atol=1e-5 * max(width, height) + 1e-3 * height / spec.height)


def test_learnt_scenes_are_kept_and_composed_only_once(tmp_path: Path) -> None:
    source = DigitScenes(tiny_scenes_recipe(), tmp_path)
    first = source.training_set()
    (folder,) = tmp_path.iterdir()
    written = (folder / "pictures.npy").stat().st_mtime_ns
    again = DigitScenes(tiny_scenes_recipe(), tmp_path).training_set()
    assert (folder / "pictures.npy").stat().st_mtime_ns == written
    np.testing.assert_array_equal(first.images, again.images)
    assert first.images.shape == (6, 96, 96, 3)
    assert (first.boxes_xyxy[first.labels >= 0] <= 96).all()
    DigitScenes(tiny_scenes_recipe(train=7), tmp_path).training_set()
    assert len(list(tmp_path.iterdir())) == 2


def test_held_out_scenes_share_neither_digits_nor_photographs_with_those_learnt_from(tmp_path: Path) -> None:
    source = DigitScenes(tiny_scenes_recipe(), tmp_path)
    parts = {part: source._digits(part).pixels for part in ("train", "validation", "test")}
    assert [len(pixels) for pixels in parts.values()] == [1257, 180, 360]
    assert "china.jpg" in source.description
    names = [file.name for file in source.held_out_files()]
    assert names == [f"scene-{number:04d}.png" for number in range(4)]
    again = DigitScenes(tiny_scenes_recipe(), tmp_path).held_out_files()
    assert [file.file for file in source.held_out_files()] == [file.file for file in again]


def test_a_scene_seen_through_a_small_jpeg_file_keeps_its_boxes(stock: SceneMaterial) -> None:
    spec = ImageInput(width=160, height=160, channels=3, resize="letterbox")
    scene = compose(stock, np.random.default_rng(8))
    straight = letterbox_boxes(scene.boxes_xyxy.astype(np.float64), scene.picture.shape[1::-1], spec)
    for seed in range(20):
        image, boxes = degrade_scene(scene, spec, np.random.default_rng(seed))
        assert image.shape == (160, 160, 3)
        assert np.abs(boxes - straight).max() < 1.5


def test_a_wallpaper_package_gives_small_pictures_and_no_repeated_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = tmp_path / "content" / "usr" / "share" / "backgrounds" / "set"
    content.mkdir(parents=True)
    for name, size in {"Green Hill.png": (3000, 1500), "Green Hill_3840x2160.png": (60, 40)}.items():
        Image.new("RGB", size, (10, 80, 20)).save(content / name)
    (content / "set.xml").write_text("<x/>")
    packages_hold(monkeypatch, {"set": tmp_path / "content"})
    (saved,) = wallpapers.fetch_wallpapers(tmp_path / "papers", ["set"])
    assert saved.name == "green-hill.jpg"
    with Image.open(saved) as picture:
        assert picture.size == (1400, 700)
