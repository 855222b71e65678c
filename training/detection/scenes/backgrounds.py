"""Backgrounds of scenes: plain colour, textures, printed lines, parts of photographs.

Letters in shapes: `H` height, `W` width. Images are f32 [H, W, 3], 0–1, red, green and blue.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.errors import DataRejected

Picture = NDArray[np.float32]
Photograph = NDArray[np.uint8]

LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as Pillow's mode L
_PHOTOGRAPH_SIDE = 1400  # pixels that the longer side of a loaded photograph has at most
_PICTURES = (".jpg", ".jpeg", ".png", ".webp")


def bundled_photograph(name: str) -> Photograph:
    """Return one of scikit-learn's two photographs: u8 [H, W, 3]."""
    from sklearn.datasets import load_sample_image  # noqa: PLC0415  (slow to import)

    return np.asarray(load_sample_image(name), dtype=np.uint8)


def load_photographs(folder: Path) -> list[Photograph]:
    """Return a folder's images in the order of their names, scaled down to the size that scenes need.

    Raises:
        DataRejected: The folder is missing or has no image.
    """
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in _PICTURES)
    if not paths:
        raise DataRejected(f"{folder} has no pictures: `kotae-train data wallpapers {folder}` fetches some")
    photographs = []
    for path in paths:
        with Image.open(path) as picture:
            picture.thumbnail((_PHOTOGRAPH_SIDE, _PHOTOGRAPH_SIDE))
            photographs.append(np.asarray(picture.convert("RGB"), dtype=np.uint8))
    return photographs


def make_background(
    kind: str, size: tuple[int, int], photographs: Sequence[Photograph], random: np.random.Generator
) -> Picture:
    """Return a random background.

    Args:
        kind: `photograph`, `texture`, `lines` or `plain`.
        size: Width and height.
        photographs: Photographs to cut from.
        random: Source of all random numbers.
    """
    if kind == "photograph":
        return _piece(photographs[int(random.integers(len(photographs)))], size, random)
    first, second = _colour(random), _colour(random)
    if kind == "texture":
        mix = _clouds(size, random)
    elif kind == "lines":
        mix = _lines(size, random)
        second = first + random.uniform(0.1, 0.4) * (second - first)
    else:
        mix = np.zeros((size[1], size[0]), np.float32)
    picture = first + mix[..., None] * (second - first) + _slope(size, random)[..., None]
    light: Picture = np.clip(picture, 0, 1).astype(np.float32)
    return light


def _colour(random: np.random.Generator) -> NDArray[np.float32]:
    grey = random.uniform(0.03, 0.97)
    return (grey + random.uniform(-0.12, 0.12, 3) * random.integers(2)).astype(np.float32)


def _slope(size: tuple[int, int], random: np.random.Generator) -> Picture:
    """Return uneven light: f32 [H, W] around 0."""
    across, down = random.uniform(-0.25, 0.25, 2) * (random.random(2) < 0.6)
    x = np.linspace(-0.5, 0.5, size[0], dtype=np.float32) * np.float32(across)
    y = np.linspace(-0.5, 0.5, size[1], dtype=np.float32) * np.float32(down)
    slope: Picture = y[:, None] + x
    return slope


def _clouds(size: tuple[int, int], random: np.random.Generator) -> Picture:
    """Return noise that is smooth on several scales: f32 [H, W], 0–1."""
    total = np.zeros((size[1], size[0]), np.float32)
    cells = int(random.integers(2, 6))
    roughness = random.uniform(0.4, 0.9)
    for octave in range(5):
        grid = random.random((cells, cells), dtype=np.float32)
        smooth = Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC)
        total += np.float32(roughness**octave) * np.asarray(smooth)
        cells *= 2
    low, high = total.min(), total.max()
    mix: Picture = (total - low) / (high - low + np.float32(1e-6))
    return mix


def _lines(size: tuple[int, int], random: np.random.Generator) -> Picture:
    """Return ruled, squared or striped paper: f32 [H, W], 0–1."""
    spacing, share = random.uniform(8, 60), random.uniform(0.05, 0.5)
    across = (np.arange(size[1]) + random.uniform(0, spacing)) % spacing < max(1.0, share * spacing)
    down = (np.arange(size[0]) + random.uniform(0, spacing)) % spacing < max(1.0, share * spacing)
    kind = random.integers(3)
    rows = across[:, None] & (kind != 1)
    columns = down[None, :] & (kind != 0)
    lines: Picture = (rows | columns).astype(np.float32)
    return lines


def _piece(photograph: Photograph, size: tuple[int, int], random: np.random.Generator) -> Picture:
    """Return a random part of a photograph, sometimes mirrored or grey, with random gamma."""
    height, width, _ = photograph.shape
    shape = size[0] / size[1]
    widest = min(width, height * shape)
    cut_width = widest * random.uniform(0.35, 1.0)
    cut_height = cut_width / shape
    left, top = random.uniform(0, width - cut_width), random.uniform(0, height - cut_height)
    box = (left, top, left + cut_width, top + cut_height)
    picture = Image.fromarray(photograph).resize(size, Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    piece = np.asarray(picture, dtype=np.float32) / np.float32(255)
    if random.random() < 0.5:
        piece = piece[:, ::-1]
    if random.random() < 0.25:
        piece = np.repeat((piece @ LUMINANCE)[..., None], 3, axis=2)
    toned: Picture = np.ascontiguousarray(piece ** np.float32(np.exp(random.uniform(-0.4, 0.4))))
    return toned
