"""Images that cannot be answered: too large, broken, or no images. All are typed errors."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import InvalidInput, TooLarge, UnsupportedMedia
from service.tasks.image.image_file import FORMATS
from service.tasks.image.preprocessing import decode_image
from tests.service.tasks.image_files import (
    decode,
    encode,
    noise,
    of_mode,
    png,
    quickly,
    shape_of,
    spec,
)

# --- limits -----------------------------------------------------------------------------------


def test_an_image_that_unpacks_to_too_much_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = png(30_000, 30_000, colour=2, rows=bytes(10**6))
    assert len(body) < 4096
    monkeypatch.delattr("PIL.ImageFile.ImageFile.load")
    with pytest.raises(TooLarge, match="30000 x 30000 pixels; the limit is 1000000"):
        decode(body)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 900))
@quickly
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


@pytest.mark.parametrize("resize", ["stretch", "crop", "letterbox"])
@pytest.mark.parametrize(("width", "height"), [(65_535, 1), (1, 65_535)])
def test_the_longest_and_thinnest_image_is_resized(resize: str, width: int, height: int) -> None:
    body = encode(Image.new("L", (width, height), 77))
    assert decode(body, spec(512, 512, resize=resize)).max() == 77


# --- what is no image -----------------------------------------------------------------------


def test_nothing_is_no_image() -> None:
    with pytest.raises(InvalidInput, match="empty"):
        decode(b"")


@pytest.mark.parametrize("body", [b"hello", b"\0", b"{}", "答え".encode(), b"\xff" * 300])
def test_bytes_that_nobody_knows_are_no_image(body: bytes) -> None:
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
def test_a_file_that_was_cut_off_is_damaged_and_not_a_grey_image(name: str, share: float) -> None:
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
    encode(of_mode("P"), transparency=1),
    encode(Image.fromarray(noise()).convert("CMYK"), "JPEG"),
    encode(of_mode("P"), "GIF", save_all=True, append_images=[of_mode("P").rotate(90)]),
    encode(of_mode("P"), "BMP"),
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


def test_unknown_bytes_that_claim_to_be_audio_are_refused_as_audio() -> None:
    with pytest.raises(UnsupportedMedia, match="audio/mpeg"):
        decode(b"hello", declared_type="audio/mpeg")


def test_unknown_bytes_that_claim_to_be_an_image_are_damaged() -> None:
    with pytest.raises(InvalidInput):
        decode(b"hello", declared_type="image/png")


@pytest.mark.parametrize("declared", ["image/png", "audio/wav", "text/plain", "", "nonsense"])
def test_a_jpeg_is_accepted_whatever_it_is_called(declared: str) -> None:
    assert decode(shape_of(9, 9, "JPEG"), declared_type=declared).shape == (8, 8, 3)
