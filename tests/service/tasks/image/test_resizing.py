"""Resizing: any image becomes exactly the size of the graph, and what is seen stays where it was."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from service.repository.manifest import ImageInput
from service.tasks.image.preprocessing import (
    resize_image,
)
from tests.service.tasks.image_files import (
    MAX_PIXELS,
    decode,
    encode,
    noise,
    quickly,
    shape_of,
    spec,
)

# --- resizing ---------------------------------------------------------------------------------

_inputs = st.builds(
    ImageInput,
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    channels=st.sampled_from([1, 3]),
    resize=st.sampled_from(["stretch", "crop", "letterbox"]),
    filter=st.sampled_from(["nearest", "bilinear", "bicubic"]),
    antialias=st.booleans(),
    pad_value=st.integers(0, 255),
)
_sides = st.integers(1, 60) | st.sampled_from([1, 2, 999, 20_000])


@given(_inputs, _sides, _sides)
@example(ImageInput(width=3, height=7, resize="crop"), 20_000, 1)
@example(ImageInput(width=3, height=7, resize="crop"), 1, 20_000)
@settings(deadline=None, max_examples=200)
def test_any_image_becomes_exactly_the_size_of_the_graph(wanted: ImageInput, width: int, height: int) -> None:
    assume(width * height <= MAX_PIXELS)
    decoded = decode(encode(Image.new("RGB", (width, height))), wanted)
    assert decoded.shape == (wanted.height, wanted.width, wanted.channels)
    assert decoded.dtype == np.uint8


@given(_inputs, _sides, _sides, st.integers(0, 255))
@settings(deadline=None, max_examples=200)
def test_an_image_of_one_colour_stays_so_whatever_its_size(
    wanted: ImageInput, width: int, height: int, grey: int
) -> None:
    assume(width * height <= MAX_PIXELS)
    image = Image.new("L" if wanted.channels == 1 else "RGB", (width, height), (grey,) * wanted.channels)
    values = set(np.unique(resize_image(image, wanted)).tolist())
    allowed = {grey, wanted.pad_value} if wanted.resize == "letterbox" else {grey}
    assert values <= allowed
    assert grey in values


@given(_inputs, st.integers(0, 2**16))
@quickly
def test_an_image_of_the_right_size_is_not_touched(wanted: ImageInput, seed: int) -> None:
    pixels = noise(wanted.width, wanted.height, wanted.channels, seed)
    resized = resize_image(Image.fromarray(pixels), wanted)
    np.testing.assert_array_equal(resized, pixels.reshape(resized.shape))


@given(_inputs, st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**16))
@quickly
def test_a_mirrored_image_gives_the_mirrored_pixels(
    wanted: ImageInput, width: int, height: int, seed: int
) -> None:
    assume(wanted.filter != "nearest")  # between two pixels it has to choose a side
    pixels = noise(width, height, wanted.channels, seed)
    plain = resize_image(Image.fromarray(pixels), wanted)
    mirrored = resize_image(Image.fromarray(np.ascontiguousarray(pixels[:, ::-1])), wanted)
    if wanted.resize == "letterbox":
        scaled = max(1, round(width * min(wanted.width / width, wanted.height / height)))
        assume((wanted.width - scaled) % 2 == 0)  # else one column more is padded on the right
    np.testing.assert_allclose(mirrored[:, ::-1].astype(int), plain.astype(int), atol=2)


@pytest.mark.parametrize(("width", "height"), [(64, 32), (32, 64), (64, 64), (640, 2)])
def test_fit_stretches_the_whole_image(width: int, height: int) -> None:
    decoded = decode(shape_of(width, height), spec(2, 2, filter="nearest"))
    np.testing.assert_array_equal(decoded[0], [[255, 0, 0], [0, 255, 0]])
    np.testing.assert_array_equal(decoded[1], [[255, 255, 255], [0, 0, 255]])


@pytest.mark.parametrize("antialias", [True, False])
def test_crop_keeps_the_middle_of_a_landscape(antialias: bool) -> None:
    columns = np.repeat(np.arange(40, dtype=np.uint8)[np.newaxis] * 6, 10, axis=0)  # 40 × 10
    decoded = resize_image(Image.fromarray(columns), spec(10, 10, 1, resize="crop", antialias=antialias))
    np.testing.assert_array_equal(decoded[0, :, 0], np.arange(15, 25) * 6)


@pytest.mark.parametrize("antialias", [True, False])
def test_crop_keeps_the_middle_of_a_portrait(antialias: bool) -> None:
    rows = np.repeat(np.arange(40, dtype=np.uint8)[:, np.newaxis] * 6, 10, axis=1)  # 10 × 40
    decoded = resize_image(Image.fromarray(rows), spec(10, 10, 1, resize="crop", antialias=antialias))
    np.testing.assert_array_equal(decoded[:, 0, 0], np.arange(15, 25) * 6)


def test_crop_scales_the_shorter_side_to_fit() -> None:
    ramp = np.repeat(np.linspace(0, 255, 80, dtype=np.uint8)[np.newaxis], 40, axis=0)  # 80 × 40, twice 20
    decoded = resize_image(Image.fromarray(ramp), spec(20, 20, 1, resize="crop"))[10, :, 0].astype(int)
    assert decoded[0] == pytest.approx(255 * 20.5 / 79, abs=3)
    assert decoded[-1] == pytest.approx(255 * 58.5 / 79, abs=3)


@pytest.mark.parametrize(
    ("width", "height", "rows", "columns"),
    [
        (40, 20, slice(2, 6), slice(0, 8)),
        (20, 40, slice(0, 8), slice(2, 6)),
        (16, 16, slice(0, 8), slice(0, 8)),
        (400, 1, slice(3, 4), slice(0, 8)),
        (1, 400, slice(0, 8), slice(3, 4)),
    ],
)
def test_letterbox_pads_around_the_middle(width: int, height: int, rows: slice, columns: slice) -> None:
    image = Image.new("RGB", (width, height), (200, 200, 200))
    decoded = resize_image(image, spec(resize="letterbox", pad_value=9))
    expected = np.full((8, 8, 3), 9, dtype=np.uint8)
    expected[rows, columns] = 200
    np.testing.assert_array_equal(decoded, expected)


def test_antialias_averages_what_plain_sampling_skips() -> None:
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    smooth = resize_image(Image.fromarray(board), spec(8, 8, 1, antialias=True))
    sampled = resize_image(Image.fromarray(board), spec(8, 8, 1, filter="nearest", antialias=False))
    np.testing.assert_allclose(smooth.astype(int), 128, atol=6)
    assert set(np.unique(sampled).tolist()) <= {0, 255}


def test_plain_bilinear_sampling_looks_at_the_centres_of_the_output_pixels() -> None:
    ramp = np.arange(8, dtype=np.uint8)[np.newaxis] * 10
    decoded = resize_image(Image.fromarray(ramp), spec(4, 1, 1, antialias=False))
    assert decoded.ravel().tolist() == [5, 25, 45, 65]  # half-pixel centres: 0.5, 2.5, 4.5, 6.5
