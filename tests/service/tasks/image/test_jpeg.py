"""JPEG files by the fast decoder: what Pillow shows, refuses and accepts, for less work."""

from __future__ import annotations

import math
import random
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_image

from service.errors import InvalidInput, RequestError, TooLarge
from service.repository.manifest import ImageInput
from service.tasks.image import preprocessing, resizing
from service.tasks.image.image_file import open_image
from service.tasks.image.jpeg import JpegHeader, choose_reduction, decode_jpeg, read_jpeg_header
from service.tasks.image.preprocessing import ResizedImage, decode_and_resize, resize_image
from service.tasks.image.resizing import scale_pixels
from tests.service.tasks.image_files import MAX_PIXELS, encode, noise, quickly, spec

PHOTOGRAPH = Image.fromarray(load_sample_image("china.jpg"))


def jpeg(width: int, height: int, mode: str = "RGB", **options: Any) -> bytes:
    """A photograph as a JPEG file of a size."""
    image = PHOTOGRAPH.resize((width, height), Image.Resampling.LANCZOS).convert(mode)
    return encode(image, "JPEG", **{"quality": 90, **options})


def rotated(body: bytes, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(Image.open(BytesIO(body)), "JPEG", quality=95, exif=exif)


def by_pillow(body: bytes, wanted: ImageInput, max_pixels: int = 10**8) -> ResizedImage:
    """The full-size path."""
    image = open_image(body, wanted.channels, max_pixels=max_pixels)
    return ResizedImage(resize_image(image, wanted), image.size)


def distance(a: ResizedImage, b: ResizedImage) -> float:
    """Mean difference of pixels, in levels."""
    return float(np.abs(a.pixels.astype(int) - b.pixels.astype(int)).mean())


# --- the header -------------------------------------------------------------------------------

_options = st.fixed_dictionaries(
    {"progressive": st.booleans(), "subsampling": st.sampled_from([0, 1, 2]), "quality": st.integers(1, 95)}
)


@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from(["L", "RGB"]), _options)
@quickly
def test_the_header_of_a_plain_file_gives_its_size(
    width: int, height: int, mode: str, options: dict[str, Any]
) -> None:
    assert read_jpeg_header(jpeg(width, height, mode, **options)) == JpegHeader(width, height, False)


def test_metadata_that_might_turn_the_image_is_noticed() -> None:
    assert read_jpeg_header(rotated(jpeg(20, 10), 6)) == JpegHeader(20, 10, True)


def frame_marker(body: bytes) -> int:
    return body.index(b"\xff\xc0")


def changed(body: bytes, offset: int, value: int) -> bytes:
    """The file with one byte behind its frame's marker replaced."""
    place = frame_marker(body) + offset
    return body[:place] + bytes([value]) + body[place + 1 :]


@pytest.mark.parametrize(
    "body",
    [
        encode(PHOTOGRAPH.resize((9, 9)), "PNG"),
        encode(PHOTOGRAPH.resize((9, 9)).convert("CMYK"), "JPEG"),
        changed(jpeg(9, 9), 1, 0xC9),  # arithmetic coding
        changed(jpeg(9, 9), 1, 0xC3),  # lossless
        changed(jpeg(9, 9), 4, 12),  # 12 bits
        changed(jpeg(9, 9), 6, 0),  # the height stands elsewhere
        jpeg(9, 9)[:100],
        b"\xff\xd8\xff",
        b"\xff\xd8\xff" + bytes(40),
        b"\xff\xd8" + b"\xff" * 40,
    ],
    ids=["PNG", "CMYK", "arithmetic", "lossless", "12-bit", "DNL", "cut", "no more", "zeros", "fill bytes"],
)
def test_what_is_not_plain_is_left_to_pillow(body: bytes) -> None:
    assert read_jpeg_header(body) is None


# --- decoding ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"progressive": True}, {"restart_marker_rows": 1}]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_whole_image_is_the_one_that_pillow_decodes(channels: int, options: dict[str, Any]) -> None:
    mode = "L" if channels == 1 else "RGB"
    body = jpeg(150, 101, mode, **options)
    header = read_jpeg_header(body)
    assert header is not None
    pixels = decode_jpeg(body, header, 1, channels)
    assert pixels is not None
    expected = np.asarray(Image.open(BytesIO(body)))
    np.testing.assert_array_equal(pixels.reshape(expected.shape), expected)


def test_of_a_colour_file_a_grey_graph_gets_the_luminance() -> None:
    resized = decode_and_resize(jpeg(64, 64, quality=95), spec(64, 64, 1), max_pixels=MAX_PIXELS)
    assert distance(resized, by_pillow(jpeg(64, 64, quality=95), spec(64, 64, 1))) < 1


@given(st.floats(1, 9000), st.floats(1, 9000), st.floats(0.5, 500), st.floats(0.5, 500))
def test_the_largest_reduction_is_chosen_that_leaves_enough(
    width: float, height: float, across: float, down: float
) -> None:
    def enough(by: int) -> bool:
        return width / by >= across and height / by >= down and min(width, height) >= 64

    assert choose_reduction((width, height), (across, down)) == max([1, *filter(enough, (2, 4, 8))])


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
@pytest.mark.parametrize(("width", "height"), [(64, 64), (65, 71), (201, 99)])
def test_a_reduced_image_has_its_share_of_the_pixels_rounded_up(
    width: int, height: int, reduction: int
) -> None:
    body = jpeg(width, height)
    header = read_jpeg_header(body)
    assert header is not None
    pixels = decode_jpeg(body, header, reduction, 3)
    assert pixels is not None
    assert pixels.shape == (math.ceil(height / reduction), math.ceil(width / reduction), 3)


# --- the same image as by the full-size path ------------------------------------------------

_SIZES = [(500, 375), (1003, 777), (375, 1501)]
_CLOSE = 2  # levels of 255, on average


@pytest.mark.parametrize("resize", ["stretch", "crop", "letterbox"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", _SIZES, ids=str)
def test_a_photograph_is_the_same_but_for_a_level(size: tuple[int, int], channels: int, resize: Any) -> None:
    body, wanted = jpeg(*size), spec(96, 80, channels, resize=resize, pad_value=7)
    resized = decode_and_resize(body, wanted, max_pixels=10**8)
    expected = by_pillow(body, wanted)
    assert resized.original_size == expected.original_size == size
    assert distance(resized, expected) < _CLOSE
    assert resized.pixels.shape == expected.pixels.shape
    assert resized.pixels.flags.c_contiguous
    assert resized.pixels.flags.writeable
    if resize == "letterbox":
        margin = (expected.pixels == 7).all(axis=(0, 2)), (expected.pixels == 7).all(axis=(1, 2))
        assert (resized.pixels[:, margin[0]] == 7).all()
        assert (resized.pixels[margin[1]] == 7).all()


@pytest.mark.parametrize("resize", ["stretch", "crop", "letterbox"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_is_upright(orientation: int, resize: Any) -> None:
    body, wanted = rotated(jpeg(333, 201), orientation), spec(40, 28, resize=resize)
    resized = decode_and_resize(body, wanted, max_pixels=10**8)
    expected = by_pillow(body, wanted)
    assert resized.original_size == expected.original_size == ((201, 333) if orientation >= 5 else (333, 201))
    assert distance(resized, expected) < _CLOSE


@pytest.mark.parametrize(
    "fields", [{"antialias": False}, {"filter": "nearest"}, {"filter": "bicubic"}], ids=str
)
def test_every_filter_is_pillows(fields: dict[str, Any]) -> None:
    body, wanted = jpeg(150, 101), spec(96, 80, **fields)
    np.testing.assert_array_equal(
        decode_and_resize(body, wanted, max_pixels=10**8).pixels, by_pillow(body, wanted).pixels
    )


def test_a_line_stays_where_it_is_however_much_smaller_the_image_is_decoded() -> None:
    pixels = np.zeros((1003, 1501), np.uint8)
    pixels[:, 1200:1208] = 255
    pixels[900:908] = 255
    body, wanted = encode(Image.fromarray(pixels), "JPEG", quality=95), spec(100, 100, 1)
    seen = decode_and_resize(body, wanted, max_pixels=10**8).pixels[:, :, 0].astype(float)
    columns, rows = seen[:50].mean(axis=0), seen[:, :50].mean(axis=1)
    assert (columns @ np.arange(100) / columns.sum() + 0.5) * 15.01 == pytest.approx(1204, abs=1.5)
    assert (rows @ np.arange(100) / rows.sum() + 0.5) * 10.03 == pytest.approx(904, abs=1.5)


# --- scaling ----------------------------------------------------------------------------------


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(1, 40), st.data())
@settings(deadline=None, max_examples=60)
def test_the_fast_resizer_differs_from_pillow_by_rounding(
    width: int, height: int, across: int, down: int, data: st.DataObject
) -> None:
    channels = data.draw(st.sampled_from([1, 3]))
    pixels = noise(width, height, channels, data.draw(st.integers(0, 99))).reshape(height, width, channels)
    left, top = data.draw(st.floats(0, width * 0.4)), data.draw(st.floats(0, height * 0.4))
    box = left, top, data.draw(st.floats(width * 0.6, width)), data.draw(st.floats(height * 0.6, height))
    wanted = spec(across, down, channels)
    fast = scale_pixels(pixels, (across, down), box, wanted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resizing, "fast", None)  # as on a platform without a wheel
        slow = scale_pixels(pixels, (across, down), box, wanted)
    assert fast.shape == slow.shape == (down, across, channels)
    np.testing.assert_allclose(fast.astype(int), slow.astype(int), atol=1)


# --- limits and damage ------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [3199, 3200, 3201])
def test_the_limit_of_pixels_counts_the_whole_image_and_not_the_reduced_one(limit: int) -> None:
    body = jpeg(80, 40)
    if limit >= 80 * 40:
        assert decode_and_resize(body, spec(), max_pixels=limit).original_size == (80, 40)
    else:
        with pytest.raises(TooLarge, match=f"80 x 40 pixels; the limit is {limit}"):
            decode_and_resize(body, spec(), max_pixels=limit)


def test_an_image_that_is_too_large_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessing, "decode_jpeg", lambda *_: pytest.fail("decoded"))
    huge = changed(changed(jpeg(9, 9), 5, 0xFF), 7, 0xFF)
    with pytest.raises(TooLarge, match="65289 x 65289"):
        decode_and_resize(huge, spec(), max_pixels=10**6)


_EXIF = Image.Exif()
_EXIF[0x0112] = 6
_SEEDS = [
    jpeg(96, 96),
    jpeg(33, 17, subsampling=0),
    jpeg(96, 80, progressive=True),
    jpeg(40, 40, "L"),
    jpeg(96, 96, exif=_EXIF),
    jpeg(96, 96, restart_marker_blocks=4),
    jpeg(64, 64, keep_rgb=True),
    encode(PHOTOGRAPH.resize((32, 32)).convert("CMYK"), "JPEG"),
]


@given(st.sampled_from(_SEEDS), st.randoms(use_true_random=False), st.sampled_from([1, 3]))
@settings(deadline=None, max_examples=120)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about the damage
def test_a_damaged_file_is_refused_or_accepted_just_as_pillow_does(
    body: bytes, chance: random.Random, channels: int
) -> None:
    damaged = bytearray(body)
    for _ in range(chance.choice([1, 1, 2])):
        place = chance.randrange(min(len(damaged), chance.choice([700, len(damaged)])))
        match chance.randrange(4):
            case 0:
                damaged[place] ^= 1 << chance.randrange(8)
            case 1:
                del damaged[place : place + chance.randrange(1, 9)]
            case 2:
                damaged[place:place] = chance.randbytes(chance.randrange(1, 9))
            case _:
                del damaged[max(2, place) :]
    outcomes: list[object] = []
    for read in (by_pillow, lambda *args: decode_and_resize(*args, max_pixels=10**8)):
        try:
            outcomes.append(read(bytes(damaged), spec(12, 12, channels)).original_size)
        except RequestError as error:
            outcomes.append((type(error).__name__, error.message))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.999])
def test_a_large_file_that_was_cut_off_is_refused(share: float) -> None:
    body = jpeg(800, 600)
    with pytest.raises(InvalidInput, match="damaged"):
        decode_and_resize(body[: int(len(body) * share)], spec(), max_pixels=10**8)
