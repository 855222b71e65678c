"""A shipped model gives the same answer to an image that was decoded smaller as to the whole one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.enlarged_digits import enlarged_digits
from service.engine.runtime.session import Device, Session
from service.repository.manifest import VERSION_FILE, ImageInput, VersionFacts, read
from service.tasks.image.image_file import open_image
from service.tasks.image.jpeg import JpegHeader, decode_jpeg
from service.tasks.image.preprocessing import decode_and_resize, resize_image

VERSION = Path(__file__).parents[4] / "models/digits/1"
PICTURES = 240
AGREEMENT = 0.995


def test_the_answer_to_a_reduced_image_is_the_answer_to_the_whole_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reductions: list[int] = []

    def counted(body: bytes, header: JpegHeader, reduction: int, channels: int) -> NDArray[np.uint8] | None:
        reductions.append(reduction)
        return decode_jpeg(body, header, reduction, channels)

    monkeypatch.setattr("service.tasks.image.preprocessing.decode_jpeg", counted)
    facts = read(VERSION / VERSION_FILE, VersionFacts)
    spec = facts.input
    assert isinstance(spec, ImageInput)
    files = list(enlarged_digits(PICTURES))
    run = Session(VERSION / facts.variants[0].file, Device("cpu")).run
    reduced = np.stack([decode_and_resize(file, spec, max_pixels=10**8).pixels for file in files])
    whole = np.stack([resize_image(open_image(file, 1, max_pixels=10**8), spec) for file in files])
    assert reductions.count(8) > PICTURES / 2
    assert 1 not in reductions
    ours, theirs = (run({"image": pixels})["probabilities"] for pixels in (reduced, whole))
    assert (ours.argmax(axis=1) == theirs.argmax(axis=1)).mean() >= AGREEMENT
    assert np.abs(ours - theirs).max() < 0.05
    assert np.abs(reduced.astype(int) - whole.astype(int)).mean() < 0.5
