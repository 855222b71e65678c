"""Pictures: every file a person has becomes the same pixels, and every broken one a typed error."""

from __future__ import annotations

import base64
import random
import struct
import time
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from service.errors import InvalidInput, ModelRejected, RequestError, TooLarge, UnsupportedMedia
from service.manifest import ImageInput, Provenance, Variant, VersionFacts
from service.tasks import TASKS, Limits, Task
from service.tasks.image import (
    FORMATS,
    ClassificationParameters,
    ImageClassification,
    classify,
    decode_image,
    resize_image,
)

LOSSLESS = ("PNG", "GIF", "BMP", "WEBP")
MAX_PIXELS = 10**6
LABELS = ("zero", "one", "two", "three")

_quickly = settings(deadline=None, max_examples=60)

Pixels = NDArray[np.uint8]


def spec(width: int = 8, height: int = 8, channels: Any = 3, **fields: Any) -> ImageInput:
    return ImageInput(width=width, height=height, channels=channels, **fields)


def encode(picture: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    if format == "WEBP":
        options = {"lossless": True, "exact": True, **options}
    picture.save(file, format, **options)
    return file.getvalue()


def decode(body: bytes, wanted: ImageInput | None = None, **options: Any) -> Pixels:
    return decode_image(body, wanted or spec(), max_pixels=MAX_PIXELS, **options)


def noise(width: int = 8, height: int = 8, channels: int = 3, seed: int = 0) -> Pixels:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def shape_of(width: int, height: int, format: str = "PNG") -> bytes:
    """A picture whose corners differ: red, green, blue, white, clockwise from the upper left."""
    corners = np.array([[[255, 0, 0], [0, 255, 0]], [[255, 255, 255], [0, 0, 255]]], dtype=np.uint8)
    picture = Image.fromarray(corners).resize((width, height), Image.Resampling.NEAREST)
    return encode(picture, format)


def png(width: int, height: int, *, bits: int = 8, colour: int = 0, rows: bytes = b"") -> bytes:
    """A PNG file of a few bytes, whatever size it claims to have."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows, 9))
        + chunk(b"IEND", b"")
    )


# --- formats and modes -----------------------------------------------------------------------


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
def test_every_format_shows_the_same_picture(format: str) -> None:
    pixels = decode(shape_of(64, 64, format), spec(2, 2, filter="nearest")).astype(int)
    expected = [[[255, 0, 0], [0, 255, 0]], [[255, 255, 255], [0, 0, 255]]]
    np.testing.assert_allclose(pixels, expected, atol=12)


def test_pixels_are_contiguous_and_writable() -> None:
    pixels = decode(encode(Image.fromarray(noise())))
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable


_GREYS = np.array([[0, 64], [128, 255]], dtype=np.uint8)


def _of_mode(mode: str) -> Image.Image:
    grey = Image.fromarray(_GREYS)
    if mode == "I;16":
        return Image.fromarray(_GREYS.astype(np.uint16) * 257)
    return grey.convert(mode)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_mode_of_pixels_changes_nothing_of_what_is_seen(mode: str, channels: int) -> None:
    decoded = decode(encode(_of_mode(mode)), spec(2, 2, channels))
    expected = np.repeat(_GREYS[:, :, np.newaxis], channels, axis=2)
    np.testing.assert_allclose(decoded.astype(int), expected, atol=1)


def test_black_and_white_bits_become_0_and_255() -> None:
    bits = Image.fromarray(np.array([[True, False], [False, True]]))
    assert bits.mode == "1"
    assert decode(encode(bits), spec(2, 2, 1))[:, :, 0].tolist() == [[255, 0], [0, 255]]


def test_a_cmyk_jpeg_keeps_its_colours() -> None:
    red = encode(Image.new("RGB", (8, 8), (200, 30, 30)).convert("CMYK"), "JPEG", quality=95)
    np.testing.assert_allclose(decode(red)[4, 4].astype(int), (200, 30, 30), atol=12)


@given(st.lists(st.integers(0, 65535), min_size=4, max_size=4))
@_quickly
def test_16_bit_grey_is_scaled_and_not_clipped(values: list[int]) -> None:
    picture = Image.fromarray(np.array(values, dtype=np.uint16).reshape(1, 4))
    decoded = decode(encode(picture), spec(4, 1, 1)).ravel()
    np.testing.assert_allclose(decoded, np.array(values) / 257, atol=0.51)


def test_16_bit_colour_is_scaled_and_not_clipped() -> None:
    row = b"\0" + struct.pack(">3H", 65535, 32768, 257)
    assert decode(png(1, 1, bits=16, colour=2, rows=row), spec(1, 1)).ravel().tolist() == [255, 128, 1]


# --- transparency ----------------------------------------------------------------------------


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
    picture = Image.new("P", (2, 1))
    picture.putpalette([0, 0, 0, 200, 0, 0])
    picture.putdata([0, 1])
    decoded = decode(encode(picture, format, transparency=0), spec(2, 1))
    np.testing.assert_array_equal(decoded[0], [[255, 255, 255], [200, 0, 0]])


def test_a_transparency_for_every_colour_of_a_palette_is_obeyed() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([0, 0, 0, 200, 0, 0])
    picture.putdata([0, 1])
    decoded = decode(encode(picture, transparency=bytes([255, 0])), spec(2, 1))
    np.testing.assert_array_equal(decoded[0], [[0, 0, 0], [255, 255, 255]])


@pytest.mark.parametrize(("mode", "key"), [("L", 7), ("RGB", (7, 7, 7))])
def test_a_transparent_colour_key_shows_white(mode: str, key: Any) -> None:
    picture = Image.new(mode, (2, 1), key)
    picture.putpixel((1, 0), 50 if mode == "L" else (50, 50, 50))
    decoded = decode(encode(picture, transparency=key), spec(2, 1, 1))
    assert decoded.ravel().tolist() == [255, 50]


# --- orientation and frames ------------------------------------------------------------------

# Orientation -> what was done to the upright picture before it was stored.
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
def test_every_exif_orientation_gives_the_same_upright_picture(orientation: int, format: str) -> None:
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
@_quickly
def test_damaged_exif_data_never_refuses_sound_pixels(chance: random.Random) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x011A], exif[0x0213] = 6, "seen", (72, 1), 1
    exif.get_ifd(0x8769)[0x9286] = b"comment"
    block = bytearray(exif.tobytes())
    for _ in range(chance.randrange(1, 5)):
        block[chance.randrange(6, len(block))] = chance.choice([0, 1, 3, 5, 12, 255, chance.randrange(256)])
    sound = encode(Image.fromarray(noise()), "JPEG")
    body = sound[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + bytes(block) + sound[2:]
    assert decode(body).shape == (8, 8, 3)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_used(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    body = encode(frames[0], format, save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode(body)[0, 0], [255, 0, 0])


# --- resizing --------------------------------------------------------------------------------

_inputs = st.builds(
    ImageInput,
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    channels=st.sampled_from([1, 3]),
    resize=st.sampled_from(["fit", "crop", "letterbox"]),
    filter=st.sampled_from(["nearest", "bilinear", "bicubic"]),
    antialias=st.booleans(),
    pad_value=st.integers(0, 255),
)
_sides = st.integers(1, 60) | st.sampled_from([1, 2, 999, 20_000])


@given(_inputs, _sides, _sides)
@example(ImageInput(width=3, height=7, resize="crop"), 20_000, 1)
@example(ImageInput(width=3, height=7, resize="crop"), 1, 20_000)
@settings(deadline=None, max_examples=200)
def test_any_picture_becomes_exactly_the_size_of_the_graph(
    wanted: ImageInput, width: int, height: int
) -> None:
    assume(width * height <= MAX_PIXELS)
    decoded = decode(encode(Image.new("RGB", (width, height))), wanted)
    assert decoded.shape == (wanted.height, wanted.width, wanted.channels)
    assert decoded.dtype == np.uint8


@given(_inputs, _sides, _sides, st.integers(0, 255))
@settings(deadline=None, max_examples=200)
def test_a_picture_of_one_colour_stays_so_whatever_its_size(
    wanted: ImageInput, width: int, height: int, grey: int
) -> None:
    picture = Image.new("L" if wanted.channels == 1 else "RGB", (width, height), (grey,) * wanted.channels)
    values = set(np.unique(resize_image(picture, wanted)).tolist())
    allowed = {grey, wanted.pad_value} if wanted.resize == "letterbox" else {grey}
    assert values <= allowed
    assert grey in values


@given(_inputs, st.integers(0, 2**16))
@_quickly
def test_a_picture_of_the_right_size_is_not_touched(wanted: ImageInput, seed: int) -> None:
    pixels = noise(wanted.width, wanted.height, wanted.channels, seed)
    resized = resize_image(Image.fromarray(pixels), wanted)
    np.testing.assert_array_equal(resized, pixels.reshape(resized.shape))


@given(_inputs, st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**16))
@_quickly
def test_a_mirrored_picture_gives_the_mirrored_pixels(
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
def test_fit_stretches_the_whole_picture(width: int, height: int) -> None:
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
    picture = Image.new("RGB", (width, height), (200, 200, 200))
    decoded = resize_image(picture, spec(resize="letterbox", pad_value=9))
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


# --- limits ----------------------------------------------------------------------------------


def test_a_picture_that_unpacks_to_too_much_is_refused_before_it_is_decoded() -> None:
    body = png(30_000, 30_000, colour=2, rows=bytes(10**6))
    assert len(body) < 4096
    started = time.process_time()
    with pytest.raises(TooLarge, match="30000 x 30000 pixels; the limit is 1000000"):
        decode(body)
    assert time.process_time() - started < 0.5


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 900))
@_quickly
def test_the_limit_of_pixels_is_exact(width: int, height: int, limit: int) -> None:
    body = encode(Image.new("L", (width, height)))
    if width * height <= limit:
        assert decode_image(body, spec(), max_pixels=limit).shape == (8, 8, 3)
    else:
        with pytest.raises(TooLarge):
            decode_image(body, spec(), max_pixels=limit)


@pytest.mark.parametrize(("width", "height"), [(65_536, 1), (1, 65_536), (30_000_000, 1), (1, 30_000_000)])
def test_a_side_beyond_what_formats_of_photos_allow_is_refused(width: int, height: int) -> None:
    with pytest.raises(TooLarge, match=r"65536|30000000"):
        decode_image(png(width, height), spec(), max_pixels=50_000_000)


@pytest.mark.parametrize("resize", ["fit", "crop", "letterbox"])
@pytest.mark.parametrize(("width", "height"), [(65_535, 1), (1, 65_535)])
def test_the_longest_and_thinnest_picture_is_resized_quickly(resize: str, width: int, height: int) -> None:
    body = encode(Image.new("L", (width, height), 77))
    started = time.process_time()
    decoded = decode(body, spec(512, 512, resize=resize))
    assert decoded.max() == 77
    assert time.process_time() - started < 2


# --- what is no picture ----------------------------------------------------------------------


def test_nothing_is_no_picture() -> None:
    with pytest.raises(InvalidInput, match="empty"):
        decode(b"")


@pytest.mark.parametrize("body", [b"hello", b"\0", b"{}", "答え".encode(), b"\xff" * 300])
def test_bytes_that_nobody_knows_are_no_picture(body: bytes) -> None:
    with pytest.raises(InvalidInput, match="PNG, JPEG, WebP, GIF or BMP"):
        decode(body)


_big = Image.fromarray(noise(96, 96))
_FILES = {
    format: encode(_big, format, **({"lossless": False} if format == "WEBP" else {})) for format in FORMATS
}
_FILES["progressive JPEG"] = encode(_big, "JPEG", progressive=True)


@pytest.mark.parametrize("name", _FILES)
@given(share=st.floats(0, 0.98))
@example(share=0.002)
@example(share=0.5)
@settings(deadline=None, max_examples=25)
def test_a_file_that_was_cut_off_is_damaged_and_not_a_grey_picture(name: str, share: float) -> None:
    body = _FILES[name]
    with pytest.raises(InvalidInput):
        decode(body[: int(len(body) * share)])


@pytest.mark.parametrize("name", _FILES)
def test_every_header_that_was_cut_off_is_damaged(name: str) -> None:
    body = _FILES[name]
    for length in range(min(len(body), 64)):
        with pytest.raises(InvalidInput):
            decode(body[:length])


_SEEDS = [
    *_FILES.values(),
    encode(Image.fromarray(noise(channels=4))),
    encode(_of_mode("P"), transparency=1),
    encode(Image.fromarray(noise()).convert("CMYK"), "JPEG"),
    encode(_of_mode("P"), "GIF", save_all=True, append_images=[_of_mode("P").rotate(90)]),
    encode(_of_mode("P"), "BMP"),
    png(3, 1, bits=16, colour=2, rows=bytes(19)),
]


@given(st.binary(max_size=2000) | st.binary(max_size=200).map(lambda junk: b"\x89PNG\r\n\x1a\n" + junk))
@settings(deadline=None, max_examples=100)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about the damage
def test_random_bytes_raise_nothing_but_typed_errors(body: bytes) -> None:
    with pytest.raises((InvalidInput, UnsupportedMedia, TooLarge)):
        decode(body)


@given(st.sampled_from(_SEEDS), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=300)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about the damage
def test_damaged_files_raise_nothing_but_typed_errors(body: bytes, chance: random.Random) -> None:
    damaged = bytearray(body)
    for _ in range(chance.choice([1, 1, 2, 8])):
        place = chance.randrange(min(len(damaged), chance.choice([64, len(body)])) or 1)
        match chance.randrange(4):
            case 0:
                damaged[place : place + 1] = bytes([chance.choice([0, 255, chance.randrange(256)])])
            case 1:
                del damaged[place : place + chance.randrange(1, 9)]
            case 2:
                damaged[place:place] = chance.randbytes(chance.randrange(1, 9))
            case _:
                damaged[place : place + 1] = (
                    bytes([damaged[place] ^ 1 << chance.randrange(8)]) if damaged else b""
                )
    try:
        assert decode(bytes(damaged)).shape == (8, 8, 3)
    except (InvalidInput, UnsupportedMedia, TooLarge) as error:
        assert error.message


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"%PDF-1.7\n" + bytes(300), "application/pdf"),
        (b"RIFF\x24\0\0\0WAVEfmt " + bytes(300), "wav"),
        (b"PK\x03\x04" + bytes(300), "zip"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(300), "mp4"),
        (b"II*\0" + bytes(300), "tif"),
    ],
    ids=["pdf", "wav", "zip", "mp4", "tiff"],
)
def test_a_file_of_another_kind_is_refused_by_its_name(body: bytes, named: str) -> None:
    with pytest.raises(UnsupportedMedia, match=named):
        decode(body)


def test_unknown_bytes_that_claim_to_be_a_sound_are_refused_as_one() -> None:
    with pytest.raises(UnsupportedMedia, match="audio/mpeg"):
        decode(b"hello", declared_type="audio/mpeg")


def test_unknown_bytes_that_claim_to_be_a_picture_are_damaged() -> None:
    with pytest.raises(InvalidInput):
        decode(b"hello", declared_type="image/png")


@pytest.mark.parametrize("declared", ["image/png", "audio/wav", "text/plain", "", "nonsense"])
def test_a_jpeg_is_accepted_whatever_it_is_called(declared: str) -> None:
    assert decode(shape_of(9, 9, "JPEG"), declared_type=declared).shape == (8, 8, 3)


# --- the task --------------------------------------------------------------------------------


def facts(**fields: Any) -> VersionFacts:
    known: dict[str, Any] = {
        "created": datetime(2026, 1, 1, tzinfo=UTC),
        "provenance": Provenance(command="tests", data="noise", seed=0),
        "input": spec(channels=1),
        "labels": "labels.txt",
        "variants": (Variant(file="model.onnx", tolerance={"probabilities": 1e-4}),),
        "files": {"model.onnx": "sha256:" + "0" * 64},
    }
    return VersionFacts(**(known | fields))


@pytest.fixture
def task(tmp_path: Path) -> ImageClassification:
    (tmp_path / "labels.txt").write_text("\n".join(LABELS) + "\n")
    return ImageClassification(tmp_path, facts())


def test_the_list_of_tasks_holds_the_task_under_its_name(task: Task) -> None:
    assert TASKS[task.name] is ImageClassification


@given(st.binary(max_size=500))
@_quickly
def test_base64_gives_the_bytes_that_were_encoded(body: bytes) -> None:
    encoded = base64.b64encode(body).decode()
    assert ImageClassification.from_json(encoded) == body
    assert ImageClassification.from_json(f"data:image/png;base64,{encoded}") == body


@pytest.mark.parametrize(
    "value", ["not base64!", "abc", "päng", "data:image/png;base64,???", "\ud800", "QQ=Q"]
)
def test_text_that_is_not_base64_is_refused(value: str) -> None:
    with pytest.raises(InvalidInput, match="base64"):
        ImageClassification.from_json(value)


@pytest.mark.parametrize("value", [None, 7, 1.5, True, [], {}, ["QQ=="], {"image": "QQ=="}])
def test_a_json_value_that_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(InvalidInput, match="base64 string"):
        ImageClassification.from_json(value)


def test_decoding_gives_the_inputs_that_the_graph_takes(task: ImageClassification) -> None:
    inputs = task.decode(encode(Image.fromarray(noise(20, 30))), Limits())
    assert {name: str(array.dtype) for name, array in inputs.items()} == dict(task.inputs)
    assert inputs["image"].shape == (8, 8, 1)
    assert task.cost(inputs) == 1


def test_decoding_obeys_the_limits(task: ImageClassification) -> None:
    with pytest.raises(TooLarge):
        task.decode(encode(Image.new("L", (10, 10))), Limits(max_pixels=99))


def test_text_instead_of_a_picture_is_refused(task: ImageClassification) -> None:
    with pytest.raises(RequestError):
        task.decode("a cat", Limits())


def test_an_answer_has_the_best_labels_first(task: ImageClassification) -> None:
    outputs = {"probabilities": np.array([0.1, 0.2, 0.6, 0.1], dtype=np.float32)}
    answer = task.answer(outputs, ClassificationParameters(top_k=2))
    assert answer == {
        "predictions": [
            {"label": "two", "score": pytest.approx(0.6)},
            {"label": "one", "score": pytest.approx(0.2)},
        ]
    }


_scores = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30)


@given(_scores, st.integers(1, 40))
def test_predictions_are_sorted_complete_and_tell_each_label_its_score(
    scores: list[float], top_k: int
) -> None:
    labels = tuple(f"label {i}" for i in range(len(scores)))
    predictions = classify(np.array(scores, dtype=np.float32), labels, top_k)["predictions"]
    got = [p["score"] for p in predictions]
    assert got == sorted(scores, reverse=True)[:top_k]
    assert all(scores[labels.index(p["label"])] == p["score"] for p in predictions)
    assert len({p["label"] for p in predictions}) == min(top_k, len(scores))


@given(st.integers(1, 30), st.integers(1, 30))
def test_ties_keep_the_order_of_the_labels(count: int, top_k: int) -> None:
    labels = tuple(f"label {i}" for i in range(count))
    predictions = classify(np.full(count, 1 / count, dtype=np.float32), labels, top_k)["predictions"]
    assert [p["label"] for p in predictions] == list(labels[:top_k])


@pytest.mark.parametrize("values", [[0, 1, 0], [1e-45, 1, 0], [3.4e38, -3.4e38, 0], [-0.0, 0.0, 1e-30]])
def test_extreme_scores_are_sorted_as_numbers(values: list[float]) -> None:
    scores = np.array(values, dtype=np.float32)
    got = [p["score"] for p in classify(scores, ("a", "b", "c"), 3)["predictions"]]
    assert got == sorted(scores.tolist(), reverse=True)


@pytest.mark.parametrize("top_k", [0, -1, 1.5, "many", None])
def test_top_k_below_one_is_out_of_range(top_k: Any) -> None:
    with pytest.raises(ValueError, match="top_k"):
        ClassificationParameters(top_k=top_k)


def _result(**scores: float) -> dict[str, object]:
    return {"predictions": [{"label": label, "score": score} for label, score in scores.items()]}


def test_near_ties_in_another_order_agree(task: ImageClassification) -> None:
    assert task.agrees(_result(one=0.50, two=0.49), _result(two=0.495, one=0.494, zero=0.01), 0.01) is None


def test_a_score_beyond_the_tolerance_does_not_agree(task: ImageClassification) -> None:
    problem = task.agrees(_result(one=0.5), _result(one=0.52), 0.01)
    assert problem is not None
    assert "'one'" in problem
    assert "0.52" in problem


def test_swapped_labels_do_not_agree(task: ImageClassification) -> None:
    assert task.agrees(_result(one=0.9, two=0.1), _result(two=0.9, one=0.1), 0.01)


def test_a_label_that_is_not_answered_does_not_agree(task: ImageClassification) -> None:
    problem = task.agrees(_result(nine=0.9), _result(one=0.9), 0.01)
    assert problem is not None
    assert "'nine'" in problem


def test_a_score_that_is_no_number_does_not_agree(task: ImageClassification) -> None:
    assert task.agrees(_result(one=0.5), _result(one=float("nan")), 0.01)
    assert task.agrees(_result(one=float("nan")), _result(one=0.5), 0.01)


@pytest.mark.parametrize(
    "expected",
    [{}, {"predictions": []}, {"predictons": []}, {"predictions": [{"label": "one"}]}, {"predictions": 7}],
)
def test_an_expected_answer_that_says_nothing_does_not_agree(
    task: ImageClassification, expected: dict[str, object]
) -> None:
    assert task.agrees(expected, _result(one=1.0), 0.01)


def _outputs(rows: list[list[float]]) -> dict[str, NDArray[np.float32]]:
    return {"probabilities": np.array(rows, dtype=np.float32)}


def test_one_probability_a_label_that_adds_up_to_one_is_sound(task: ImageClassification) -> None:
    task.check_outputs(_outputs([[0.25, 0.25, 0.25, 0.25], [1, 0, 0, 0]]))


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([[0.5, 0.5]], r"\[1, 2\] for 4 labels"),
        ([[0.2] * 5], r"\[1, 5\] for 4 labels"),
        ([[0.5, 0.5, 0.5, 0.5]], "add up to 1"),
        ([[0, 0, 0, 0]], "add up to 1"),
        ([[1, 0, 0, 0], [float("nan"), 0, 0, 1]], "add up to 1"),
        ([[float("inf"), 0, 0, 0]], "add up to 1"),
        ([[1.5, -0.5, 0, 0]], "probabilities"),
    ],
)
def test_outputs_that_are_no_probabilities_of_the_labels_are_refused(
    task: ImageClassification, rows: list[list[float]], named: str
) -> None:
    with pytest.raises(ModelRejected, match=named):
        task.check_outputs(_outputs(rows))


def test_outputs_without_a_batch_axis_are_refused(task: ImageClassification) -> None:
    with pytest.raises(ModelRejected):
        task.check_outputs({"probabilities": np.array([1, 0, 0, 0], dtype=np.float32)})


@pytest.mark.parametrize("content", [b"", b"\n", b"one\n\ntwo\n", b"one\none\n", b"\xff\xfe"])
def test_a_file_of_labels_that_says_nothing_sure_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(ModelRejected, match=r"labels\.txt"):
        ImageClassification(tmp_path, facts())


def test_a_file_of_labels_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match=r"labels\.txt"):
        ImageClassification(tmp_path, facts())


@pytest.mark.parametrize(
    "content",
    ["one\ntwo", "one\ntwo\n", "one\r\ntwo\r\n", "\ufeffone\ntwo\n"],
    ids=["no last newline", "newline", "windows", "byte order mark"],
)
def test_labels_are_read_as_lines_whatever_wrote_them(tmp_path: Path, content: str) -> None:
    (tmp_path / "labels.txt").write_bytes(content.encode())
    assert ImageClassification(tmp_path, facts()).labels == ("one", "two")


def test_a_label_may_hold_any_word(tmp_path: Path) -> None:
    labels = ("New York", "答え", "a\u2028b", "x\x0cy", "7")
    (tmp_path / "labels.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
    assert ImageClassification(tmp_path, facts()).labels == labels
