"""A shipped model gives the same answer to a picture that was decoded smaller as to the whole one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from service.engine.session import Device, Session
from service.manifest import VERSION_FILE, ImageInput, VersionFacts, read
from service.tasks.image import fit_picture, resize_image
from service.tasks.jpeg import JpegHeader, decode_jpeg
from service.tasks.picture_file import open_picture
from tests.service.tasks.pictures import encode

VERSION = Path(__file__).parents[3] / "models/digits/1"
PICTURES = 240
AGREEMENT = 0.995


def pictures() -> list[bytes]:
    """Digits, enlarged as a camera or a scanner would have them, in JPEG files of 100 to 3500 pixels."""
    digits, rng = load_digits().images, np.random.default_rng(0)
    photographs = [Image.fromarray(pixels).convert("L") for pixels in load_sample_images().images]
    enlargers = [Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.LANCZOS]
    files = []
    for number in range(PICTURES):
        pixels = (digits[rng.integers(len(digits))] * (255 / 16)).astype(np.uint8)
        if rng.random() < 0.5:
            pixels = 255 - pixels
        side = int(rng.integers(100, 700)) if number else 2700
        digit = Image.fromarray(pixels).resize((side, side), enlargers[rng.integers(3)])
        width, height = (int(side * share) for share in rng.uniform(1, 1.3, 2))
        picture = Image.new("L", (width, height), int(np.median(pixels[[0, 0, -1], [0, -1, 0]])))
        picture.paste(digit, ((width - side) // 2, (height - side) // 2))
        if rng.random() < 0.4:
            picture = Image.blend(picture, photographs[number % 2].resize(picture.size), 0.15)
        mode = "L" if rng.random() < 0.3 else "RGB"
        files.append(encode(picture.convert(mode), "JPEG", quality=int(rng.integers(30, 96))))
    return files


def test_the_answer_to_a_reduced_picture_is_the_answer_to_the_whole_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reductions: list[int] = []

    def counted(body: bytes, header: JpegHeader, reduction: int, channels: int) -> NDArray[np.uint8] | None:
        reductions.append(reduction)
        return decode_jpeg(body, header, reduction, channels)

    monkeypatch.setattr("service.tasks.image.decode_jpeg", counted)
    facts = read(VERSION / VERSION_FILE, VersionFacts)
    spec = facts.input
    assert isinstance(spec, ImageInput)
    files = pictures()
    run = Session(VERSION / facts.variants[0].file, Device("cpu")).run
    reduced = np.stack([fit_picture(file, spec, max_pixels=10**8).pixels for file in files])
    whole = np.stack([resize_image(open_picture(file, 1, max_pixels=10**8), spec) for file in files])
    assert reductions.count(8) > PICTURES / 2
    assert 1 not in reductions
    ours, theirs = (run({"image": pixels})["probabilities"] for pixels in (reduced, whole))
    assert (ours.argmax(axis=1) == theirs.argmax(axis=1)).mean() >= AGREEMENT
    assert np.abs(ours - theirs).max() < 0.05
    assert np.abs(reduced.astype(int) - whole.astype(int)).mean() < 0.5
