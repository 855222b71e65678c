"""Scenes of the bundled digits as a source, with the same split of digits as for image classification.

A digit, a photograph and a seed belong to one part only. Training scenes are composed once and kept; some of
them are degraded as in a small or a JPEG file. Test scenes are PNG files.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.repository.manifest import ImageInput
from service.tasks.image.preprocessing import resize_image
from training.data.bundled_digits import bundled_digits
from training.data.drawn_digits import draw_digits
from training.data.split import stratified_parts
from training.detection.dataset import AnnotatedImage, TrainingSet, letterbox_boxes, pad_boxes
from training.detection.scenes import backgrounds, clutter, digit_ink
from training.detection.scenes import compose as composition
from training.detection.scenes.backgrounds import Photograph, bundled_photograph, load_photographs
from training.detection.scenes.compose import (
    LARGEST_SIDE,
    PHOTOGRAPHS,
    SMALLEST_SIDE,
    Scene,
    SceneMaterial,
    compose,
)
from training.detection.scenes.digit_ink import smooth_field
from training.recipes.detection_recipe import DetectionRecipe, ScenesData

_TRAIN, _VALIDATION, _TEST = 11, 12, 13  # first numbers of the parts' seeds
_HELD_BACK = 5  # every fifth wallpaper is for validation
_TRAINING_PHOTOGRAPHS = 0.55  # share of training scenes with a photograph, the hardest ones
_SMALL, _JPEG = 0.25, 0.35  # shares of training scenes that were small or JPEG files


@dataclass(frozen=True, slots=True)
class _Digits:
    """Digits of a part: u8 [N, 8, 8] and i64 [N]."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def stock(
        self, photographs: list[Photograph], sides: tuple[int, int], share: float = PHOTOGRAPHS
    ) -> SceneMaterial:
        fields = [smooth_field(digit) for digit in self.pixels]
        return SceneMaterial(fields, self.labels, photographs, sides, share)


class DigitScenes:
    """Composed scenes; see `DetectionSource`.

    Args:
        recipe: Number and size of the scenes, and the split of the digits.
        cache: Folder for composed training scenes.
    """

    mirror = False

    def __init__(self, recipe: DetectionRecipe, cache: Path) -> None:
        assert isinstance(recipe.data, ScenesData), "a recipe without scenes"
        self._settings, self._recipe, self._cache = recipe.data, recipe, cache
        self.classes = tuple(str(digit) for digit in range(10))
        folder = recipe.data.wallpapers
        papers = load_photographs(folder) if folder and folder.is_dir() else []
        self._papers = papers
        behind = f" and {len(papers)} wallpapers" if papers else ""
        self.description = (
            f"scenes composed of scikit-learn's load_digits: {recipe.data.train} to learn from (with "
            f"{recipe.data.drawn} drawn pictures of each digit more, over scikit-learn's china.jpg{behind}, "
            f"textures, lines and plain light), {recipe.data.validation} for validation, "
            f"{recipe.data.test} held out over flower.jpg and textures of other seeds"
        )
        self.split = (
            f"digits stratified, {recipe.split.test:.0%} for testing, seed {recipe.split.seed}; "
            "photographs and seeds of their own"
        )

    def training_set(self) -> TrainingSet:
        """Return the training scenes, composed on the first call."""
        folder = self._cache / f"scenes-{self._fingerprint()}"
        pictures, truth = folder / "pictures.npy", folder / "truth.npz"
        if not truth.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            self._compose_training_set(pictures, truth)
        with np.load(truth, allow_pickle=False) as arrays:
            # Copy on write, because torch needs writable arrays.
            return TrainingSet(np.load(pictures, mmap_mode="c"), arrays["boxes"], arrays["labels"])

    def validation_files(self) -> list[AnnotatedImage]:
        """Compose the validation scenes."""
        stock = self._digits("validation").stock(self._papers[::_HELD_BACK], (SMALLEST_SIDE, LARGEST_SIDE))
        return self._files(stock, _VALIDATION, self._settings.validation)

    def held_out_files(self) -> list[AnnotatedImage]:
        """Return the test scenes, composed on the first call."""
        return self._test_files

    @cached_property
    def _test_files(self) -> list[AnnotatedImage]:
        stock = self._digits("test").stock([bundled_photograph("flower.jpg")], (SMALLEST_SIDE, LARGEST_SIDE))
        return self._files(stock, _TEST, self._settings.test)

    def _digits(self, part: str) -> _Digits:
        pixels, labels = bundled_digits()
        chosen = getattr(stratified_parts(labels, self._recipe.split), part)
        return _Digits(pixels[chosen], labels[chosen])

    def _files(self, stock: SceneMaterial, part: int, count: int) -> list[AnnotatedImage]:
        files = []
        for number in range(count):
            scene = compose(stock, np.random.default_rng((part, self._recipe.split.seed, number)))
            files.append(
                AnnotatedImage(
                    f"scene-{number:04d}.png",
                    png(scene.picture),
                    scene.boxes_xyxy.astype(np.float64),
                    scene.labels,
                    traits_of(scene),
                )
            )
        return files

    def _compose_training_set(self, pictures: Path, truth: Path) -> None:
        spec, evaluated = self._recipe.training_input, self._recipe.input
        share = spec.width / evaluated.width
        sides = (round(SMALLEST_SIDE * share), round(LARGEST_SIDE * share))
        photographs = [bundled_photograph("china.jpg")]
        photographs += [paper for i, paper in enumerate(self._papers) if i % _HELD_BACK]
        given, drawn = self._digits("train"), draw_digits(self._settings.drawn, self._recipe.split.seed)
        digits = _Digits(
            np.concatenate([given.pixels, drawn[0][..., 0]]), np.concatenate([given.labels, drawn[1]])
        )
        stock = digits.stock(photographs, sides, _TRAINING_PHOTOGRAPHS)
        shape = (self._settings.train, spec.height, spec.width, 3)
        images = np.lib.format.open_memmap(pictures, mode="w+", dtype=np.uint8, shape=shape)
        boxes, labels = [], []
        for number in range(len(images)):
            random = np.random.default_rng((_TRAIN, self._recipe.split.seed, number))
            scene = compose(stock, random)
            images[number], edges = degrade_scene(scene, spec, random)
            boxes.append(edges)
            labels.append(scene.labels)
        images.flush()
        learning = pad_boxes(images, boxes, labels)
        np.savez(
            truth, boxes=learning.boxes_xyxy, labels=learning.labels
        )  # written last, as the mark of a complete set

    def _fingerprint(self) -> str:
        """Return a hash of everything that composed scenes depend on, including the code."""
        parts = [self._settings.model_dump_json(), self._recipe.training_input.model_dump_json()]
        parts += [self._recipe.input.model_dump_json(), self._recipe.split.model_dump_json()]
        parts += [str(paper.shape) for paper in self._papers]
        code = [module.__file__ for module in (backgrounds, clutter, digit_ink, composition)] + [__file__]
        parts += [Path(str(file)).read_text(encoding="utf-8") for file in code]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def degrade_scene(
    scene: Scene, spec: ImageInput, random: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Scale a scene to the graph's size, some through a small or a JPEG file.

    Returns:
        u8 [H, W, 3], and the boxes f32 [M, 4] in its pixels.
    """
    picture = Image.fromarray(scene.picture)
    width, height = picture.size
    if random.random() < _SMALL:
        share = random.uniform(0.45, 0.9)
        picture = picture.resize((round(width * share), round(height * share)), Image.Resampling.BILINEAR)
    if random.random() < _JPEG:
        file = BytesIO()
        picture.save(file, format="JPEG", quality=int(random.integers(35, 96)))
        picture = Image.open(file).convert("RGB")
    scale = np.array([picture.width / width, picture.height / height] * 2)
    return resize_image(picture, spec), letterbox_boxes(scene.boxes_xyxy * scale, picture.size, spec)


def traits_of(scene: Scene) -> tuple[str, ...]:
    """Return the traits of a scene."""
    look = scene.look
    return (
        f"contrast: {look.contrast}",
        f"background: {look.background}",
        f"ink: {'dark on light' if look.dark_on_light else 'light on dark'}",
    )


def png(picture: NDArray[np.uint8]) -> bytes:
    """Return u8 [H, W, 3] as a PNG file."""
    file = BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return file.getvalue()
