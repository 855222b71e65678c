from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageColor, ImageFont

from service.tasks.image.detection import Detection, Detections
from service.tasks.image.drawing import COLOURS, draw_detections
from tests.service.tasks.image_files import Pixels, encode, noise, quickly

Edges = tuple[float, float, float, float]


def found(label: str, *edges: float, score: float = 0.9) -> Detection:
    x_min, y_min, x_max, y_max = edges
    return {
        "label": label,
        "score": score,
        "box": {"x_min": x_min, "y_min": y_min, "x_max": x_max, "y_max": y_max},
    }


def drawn(pixels: Pixels, *detections: Detection) -> Pixels:
    height, width = pixels.shape[:2]
    result: Detections = {"width": width, "height": height, "detections": list(detections)}
    return np.asarray(Image.open(BytesIO(draw_detections(encode(Image.fromarray(pixels)), result, 10**7))))


def plain(width: int, height: int, level: int = 128) -> Pixels:
    return np.full((height, width, 3), level, dtype=np.uint8)


def colour(text: str) -> list[int]:
    return list(ImageColor.getrgb(text))


def is_colour_of_a_label(pixel: Pixels) -> bool:
    return pixel.tolist() in [colour(text) for text in COLOURS]


def test_an_image_of_nothing_stays_as_it_is() -> None:
    pixels = noise(50, 40)
    np.testing.assert_array_equal(drawn(pixels), pixels)


@given(st.integers(1, 150), st.integers(40, 90), st.integers(1, 40), st.integers(1, 40))
@quickly
def test_what_is_in_a_box_is_not_drawn_over(left: int, top: int, width: int, height: int) -> None:
    pixels = noise(200, 150)
    got = drawn(pixels, found("3", left, top, left + width, top + height))
    inside = (slice(top, top + height), slice(left, left + width))
    np.testing.assert_array_equal(got[inside], pixels[inside])


def test_around_a_box_there_is_a_line_of_the_labels_colour_and_a_white_one() -> None:
    got = drawn(plain(200, 150), found("3", 60, 50, 100, 90))
    for row, column in ((70, 59), (70, 100), (49, 99), (90, 80)):  # the label is at the upper left
        assert is_colour_of_a_label(got[row, column]), (row, column)
    for row, column in ((70, 58), (70, 101), (48, 99), (91, 80)):
        assert got[row, column].tolist() == [255] * 3, (row, column)
    for row, column in ((70, 57), (70, 102), (47, 99), (92, 80)):
        assert got[row, column].tolist() == [128] * 3, (row, column)


def test_edges_between_pixels_leave_in_whatever_the_box_touches() -> None:
    got = drawn(plain(200, 150), found("3", 60.4, 50.4, 99.6, 89.6))
    assert is_colour_of_a_label(got[70, 59]) and is_colour_of_a_label(got[70, 100])
    assert (got[50:90, 60:100] == 128).all()


def test_a_box_as_large_as_the_image_is_seen_at_its_border() -> None:
    got = drawn(plain(200, 150), found("3", 0, 0, 200, 150))
    for row, column in ((75, 0), (75, 199), (0, 150), (149, 100)):
        assert is_colour_of_a_label(got[row, column]), (row, column)


def test_lines_are_wider_in_large_images() -> None:
    got = drawn(plain(1600, 1600), found("3", 600, 500, 1000, 900))
    assert all(is_colour_of_a_label(pixel) for pixel in got[700, 592:600])
    assert got[700, 591].tolist() == [255] * 3


@pytest.mark.parametrize(
    ("box", "rows"),
    [((50, 60, 80, 90), slice(40, 57)), ((50, 5, 80, 40), slice(43, 60)), ((50, 0, 80, 120), slice(2, 16))],
    ids=["above", "below", "inside"],
)
def test_the_label_is_written_above_or_where_there_is_room(box: Edges, rows: slice) -> None:
    pixels = plain(200, 120)
    changed = (drawn(pixels, found("3", *box)) != drawn(pixels, found("3", *box, score=0.1))).any(axis=2)
    lines = np.flatnonzero(changed.any(axis=1))
    assert lines.size and rows.start <= lines.min() and lines.max() < rows.stop


def test_a_label_at_the_right_border_is_read_to_its_end() -> None:
    pixels = plain(200, 120)
    at_border, inside = (drawn(pixels, found("3", left, 60, left + 10, 80)) for left in (190, 100))
    whites = [(got[40:58] == 255).all(axis=2).sum() for got in (at_border, inside)]
    assert whites[0] == whites[1]


def test_no_line_goes_through_a_label() -> None:
    """One box ends where another's label is."""
    pixels, below = plain(200, 150), found("7", 60, 80, 90, 110)
    alone = drawn(pixels, below)
    for order in ((below, found("5", 50, 20, 100, 73)), (found("5", 50, 20, 100, 73), below)):
        both = drawn(pixels, *order)
        np.testing.assert_array_equal(both[64:77, 61:88], alone[64:77, 61:88])


def test_the_surest_label_lies_on_top() -> None:
    pixels, surest, other = plain(200, 150), found("7", 60, 60, 90, 90), found("5", 62, 60, 92, 90)
    alone, both = drawn(pixels, surest), drawn(pixels, surest, other)
    np.testing.assert_array_equal(both[45:57, 62:85], alone[45:57, 62:85])


def test_a_label_has_the_same_colour_wherever_it_is_and_the_ten_digits_have_ten() -> None:
    for label in ("3", "night train"):
        first, second = (drawn(plain(200, 150), found(label, x, 60, x + 20, 90)) for x in (20, 100))
        assert first[75, 19].tolist() == second[75, 99].tolist()
    lines = {tuple(drawn(plain(90, 90), found(str(i), 40, 40, 60, 60))[50, 39]) for i in range(10)}
    assert len(lines) == 10


def is_font_there() -> bool:
    try:
        ImageFont.truetype("DejaVuSans.ttf")
    except OSError:
        return False
    return True


@pytest.mark.skipif(not is_font_there(), reason="the host has no DejaVu Sans")
def test_letters_beyond_ascii_are_told_from_each_other() -> None:
    texts = [drawn(plain(200, 150), found(label, 60, 60, 90, 90))[40:58] for label in ("jø", "jж")]
    whites = [(text == 255).all(axis=2) for text in texts]
    assert (whites[0] != whites[1]).any()


def test_letters_beyond_ascii_are_boxes_where_the_host_has_no_font(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.tasks.image.drawing._SYSTEM_FONT", "no such font.ttf")
    assert drawn(plain(200, 150), found("jø", 60, 60, 90, 90))[50, 62].tolist() != [128] * 3


@pytest.mark.parametrize("text", COLOURS)
def test_white_text_can_be_read_on_every_colour(text: str) -> None:
    """WCAG 2.2, success criterion 1.4.3: (1.05) / (relative luminance + 0.05) is at least 4.5."""
    shares = np.array(colour(text)) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    assert 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05) >= 4.5


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (20, 20)], ids=str)
@pytest.mark.parametrize(
    "shares", [(0, 0, 1, 1), (1, 1, 1, 1), (0.5, 0.5, 0.5, 0.5), (1, 1, 0, 0), (0, 0, 0, 0)], ids=str
)
def test_no_box_and_no_image_is_too_small_to_be_drawn(size: tuple[int, int], shares: Edges) -> None:
    width, height = size
    edges = shares[0] * width, shares[1] * height, shares[2] * width, shares[3] * height
    assert drawn(plain(width, height), found("3", *edges)).shape == (height, width, 3)


def test_what_was_sent_is_drawn_upright_and_in_colours() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    body = encode(Image.new("L", (40, 90), 50), "JPEG", exif=exif)
    result: Detections = {"width": 90, "height": 40, "detections": [found("3", 40, 20, 50, 30)]}
    with Image.open(BytesIO(draw_detections(body, result, 10**7))) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (90, 40))
        assert 0x0112 not in image.getexif()
