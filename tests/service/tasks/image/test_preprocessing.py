"""Images: every file that a person has becomes the pixels that the person sees."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.tasks.image.image_file import FORMATS
from tests.service.tasks.image_files import (
    GREYS,
    Pixels,
    decode,
    encode,
    noise,
    of_mode,
    png,
    quickly,
    shape_of,
    spec,
)

LOSSLESS = ("PNG", "GIF", "BMP", "WEBP")

# --- formats and modes ------------------------------------------------------------------------


@pytest.mark.parametrize("format", LOSSLESS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_lossless_file_of_the_right_size_gives_its_very_pixels(format: str, channels: int) -> None:
    pixels = noise(channels=1)  # grey survives GIF's palette
    body = encode(Image.fromarray(pixels), format)
    expected = np.repeat(pixels[:, :, np.newaxis], channels, axis=2)
    decoded = decode(body, spec(channels=channels))
    if format == "GIF":  # a palette's order may cost a rounding of its luminance
        np.testing.assert_allclose(decoded, expected, atol=1)
    else:
        np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_shows_the_same_image(format: str) -> None:
    pixels = decode(shape_of(64, 64, format), spec(2, 2, filter="nearest")).astype(int)
    expected = [[[255, 0, 0], [0, 255, 0]], [[255, 255, 255], [0, 0, 255]]]
    np.testing.assert_allclose(pixels, expected, atol=12)


def test_pixels_are_contiguous_and_writable() -> None:
    pixels = decode(encode(Image.fromarray(noise())))
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_mode_of_pixels_changes_nothing_of_what_is_seen(mode: str, channels: int) -> None:
    decoded = decode(encode(of_mode(mode)), spec(2, 2, channels))
    expected = np.repeat(GREYS[:, :, np.newaxis], channels, axis=2)
    np.testing.assert_allclose(decoded.astype(int), expected, atol=1)


def test_black_and_white_bits_become_0_and_255() -> None:
    bits = Image.fromarray(np.array([[True, False], [False, True]]))
    assert bits.mode == "1"
    assert decode(encode(bits), spec(2, 2, 1))[:, :, 0].tolist() == [[255, 0], [0, 255]]


def test_a_cmyk_jpeg_keeps_its_colours() -> None:
    red = encode(Image.new("RGB", (8, 8), (200, 30, 30)).convert("CMYK"), "JPEG", quality=95)
    np.testing.assert_allclose(decode(red)[4, 4].astype(int), (200, 30, 30), atol=12)


@given(st.lists(st.integers(0, 65535), min_size=4, max_size=4))
@quickly
def test_16_bit_grey_is_scaled_and_not_clipped(values: list[int]) -> None:
    image = Image.fromarray(np.array(values, dtype=np.uint16).reshape(1, 4))
    decoded = decode(encode(image), spec(4, 1, 1)).ravel()
    np.testing.assert_allclose(decoded, np.array(values) / 257, atol=0.51)


def test_16_bit_colour_is_scaled_and_not_clipped() -> None:
    row = b"\0" + struct.pack(">3H", 65535, 32768, 257)
    assert decode(png(1, 1, bits=16, colour=2, rows=row), spec(1, 1)).ravel().tolist() == [255, 128, 1]


# --- transparency -----------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_transparent_shows_white(format: str, channels: int) -> None:
    body = encode(Image.new("RGBA", (8, 8), (10, 20, 30, 0)), format)
    assert (decode(body, spec(channels=channels)) == 255).all()


def test_what_is_half_transparent_is_mixed_with_white() -> None:
    body = encode(Image.new("RGBA", (8, 8), (0, 0, 0, 128)))
    np.testing.assert_allclose(decode(body)[0, 0].astype(int), 127, atol=1)


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_a_transparent_colour_of_a_palette_shows_white(format: str) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 200, 0, 0])
    image.putdata([0, 1])
    decoded = decode(encode(image, format, transparency=0), spec(2, 1))
    np.testing.assert_array_equal(decoded[0], [[255, 255, 255], [200, 0, 0]])


def test_a_transparency_for_every_colour_of_a_palette_is_obeyed() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 200, 0, 0])
    image.putdata([0, 1])
    decoded = decode(encode(image, transparency=bytes([255, 0])), spec(2, 1))
    np.testing.assert_array_equal(decoded[0], [[0, 0, 0], [255, 255, 255]])


@pytest.mark.parametrize(("mode", "key"), [("L", 7), ("RGB", (7, 7, 7))])
def test_a_transparent_colour_key_shows_white(mode: str, key: Any) -> None:
    image = Image.new(mode, (2, 1), key)
    image.putpixel((1, 0), 50 if mode == "L" else (50, 50, 50))
    decoded = decode(encode(image, transparency=key), spec(2, 1, 1))
    assert decoded.ravel().tolist() == [255, 50]


# --- orientation and frames -------------------------------------------------------------------

# Orientation -> what was done to the upright image before it was stored.
_STORED: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: p.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda p: np.rot90(p, -1),
}


@pytest.mark.parametrize("orientation", _STORED)
@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_every_exif_orientation_gives_the_same_upright_image(orientation: int, format: str) -> None:
    upright = noise(6, 4)
    exif = Image.Exif()
    exif[0x0112] = orientation
    body = encode(
        Image.fromarray(np.ascontiguousarray(_STORED[orientation](upright))), format, exif=exif.tobytes()
    )
    np.testing.assert_array_equal(decode(body, spec(6, 4)), upright)


def test_the_orientation_of_a_jpeg_is_obeyed() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.rot90(np.asarray(Image.open(BytesIO(shape_of(64, 32)))), 1))
    decoded = decode(encode(stored, "JPEG", exif=exif, quality=95), spec(2, 2, filter="nearest")).astype(int)
    np.testing.assert_allclose(decoded[0], [[255, 0, 0], [0, 255, 0]], atol=12)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = noise()
    np.testing.assert_array_equal(decode(encode(Image.fromarray(pixels), exif=exif)), pixels)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about the damage
@given(st.randoms(use_true_random=False))
@quickly
def test_damaged_exif_data_never_refuses_intact_pixels(chance: random.Random) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x011A], exif[0x0213] = 6, "seen", (72, 1), 1
    exif.get_ifd(0x8769)[0x9286] = b"comment"
    block = bytearray(exif.tobytes())
    for _ in range(chance.randrange(1, 5)):
        block[chance.randrange(6, len(block))] = chance.choice([0, 1, 3, 5, 12, 255, chance.randrange(256)])
    intact = encode(Image.fromarray(noise()), "JPEG")
    body = intact[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + bytes(block) + intact[2:]
    assert decode(body).shape == (8, 8, 3)


def test_exif_data_of_no_known_kind_is_ignored() -> None:
    pixels = noise()
    body = encode(Image.fromarray(pixels), exif=b"Exif\0\0words and no numbers")
    np.testing.assert_array_equal(decode(body), pixels)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_used(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    body = encode(frames[0], format, save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode(body)[0, 0], [255, 0, 0])
