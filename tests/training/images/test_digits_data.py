from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from service.repository.manifest import ImageInput
from training.data.drawn_digits import draw_digits
from training.images.digits import Digits
from training.images.redraw import redraw
from training.images.source import decode_files
from training.recipes.image_recipe import DigitsData

SPEC = ImageInput(width=32, height=32, channels=1)


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits(DigitsData(redrawings=2, drawn=3), SPEC, seed=0)


def test_the_bundled_digits_are_light_ink_on_dark(digits: Digits) -> None:
    assert digits.pixels.shape == (1797, 8, 8, 1)
    assert digits.classes == tuple("0123456789")
    assert digits.pixels.max() == 255
    assert digits.pixels[:, 0, 0].mean() < 10


def test_a_digits_file_holds_the_data_unchanged(digits: Digits) -> None:
    exact = ImageInput(width=8, height=8, channels=1)
    some = np.array([3, 500, 1796])
    assert np.array_equal(decode_files(digits.files(some), exact), digits.pixels[some])


def test_redrawings_repeat_with_the_seed_and_differ_from_one_another(digits: Digits) -> None:
    some = np.array([3, 500])
    files = [redrawing.file for redrawing in digits.redrawn(some, 1)]
    assert files == [redrawing.file for redrawing in digits.redrawn(some, 1)]
    assert len(set(files)) == 4
    assert files != [redrawing.file for redrawing in digits.redrawn(some, 2)]


def test_redrawings_stay_within_their_stated_bounds(digits: Digits) -> None:
    redrawings = [redraw(digits.pixels[i, :, :, 0], np.random.default_rng(i)) for i in range(150)]
    for file, look in ((redrawing.file, redrawing.look) for redrawing in redrawings):
        with Image.open(BytesIO(file)) as picture:
            assert picture.size == (look.width, look.height)
            assert picture.format == ("PNG" if look.quality is None else "JPEG")
        assert all(24 <= side <= 1024 for side in (look.width, look.height))
        assert 0.35 <= look.digit_height <= 0.9
        assert max(abs(look.shift_x), abs(look.shift_y)) <= 0.2
        assert abs(look.tilt_degrees) <= 15
        assert look.contrast >= 0.25
        assert look.quality is None or 30 <= look.quality <= 95
    traits = {trait for redrawing in redrawings for trait in redrawing.look.traits()}
    assert len(traits) == 2 * 8 + 3 + 3 - 2  # every kind of look is there


def test_ink_and_paper_differ_by_the_stated_contrast_and_polarity(digits: Digits) -> None:
    for i in range(40):
        redrawing = redraw(digits.pixels[i, :, :, 0], np.random.default_rng(i))
        look = redrawing.look
        if look.paper != "plain" or look.blur or look.quality is not None or look.height < 64:
            continue
        with Image.open(BytesIO(redrawing.file)) as picture:
            grey = np.asarray(picture).astype(int)
        assert abs((grey.max() - grey.min()) / 255 - look.contrast) < 0.02
        assert (grey[0, 0] == grey.max()) == look.dark_on_light


def test_varied_digits_are_pixels_of_the_graphs_size(digits: Digits) -> None:
    vary = digits.augmentation()
    prepared = vary.prepare(torch.from_numpy(digits.pixels[:64]))
    varied = vary(prepared, torch.Generator().manual_seed(0))
    assert varied.shape == (64, 32, 32, 1)
    assert torch.equal(varied, varied.round().clamp(0, 255))
    assert (varied.amax(dim=(1, 2, 3)) - varied.amin(dim=(1, 2, 3)) > 15).all()


def test_variation_repeats_with_the_generator_alone(digits: Digits) -> None:
    vary = digits.augmentation()
    prepared = vary.prepare(torch.from_numpy(digits.pixels[:16]))
    first, second, other = (vary(prepared, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_drawn_digits_fill_their_box_like_the_bundled_ones() -> None:
    pictures, labels = draw_digits(12, 0)
    assert np.bincount(labels).tolist() == [12] * 10
    ink_rows = (pictures[..., 0].max(axis=2) > 20).sum(axis=1)
    assert (ink_rows >= 7).mean() > 0.9
    assert np.array_equal(pictures, draw_digits(12, 0)[0])


def test_no_drawn_digits_are_made_where_none_are_wanted() -> None:
    assert draw_digits(0, 0)[0].shape == (0, 8, 8, 1)


def test_the_digit_has_the_stated_height_and_lies_within_the_picture(digits: Digits) -> None:
    measured = 0
    for i in range(160):
        redrawing = redraw(digits.pixels[i, :, :, 0], np.random.default_rng(i))
        look = redrawing.look
        if look.paper != "plain" or look.blur or look.quality is not None or look.height < 64:
            continue
        with Image.open(BytesIO(redrawing.file)) as picture:
            grey = np.asarray(picture).astype(int)
        ink = grey < grey.mean() if look.dark_on_light else grey > grey.mean()
        rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        fits = width < 0.93 * look.width
        assert not fits or abs(height - look.digit_height * look.height) <= 0.03 * look.height
        assert height <= 0.93 * look.height
        centre = (rows[[0, -1]].mean() / look.height, columns[[0, -1]].mean() / look.width)
        assert all(0.28 < place < 0.72 for place in centre)
        measured += 1
    assert measured >= 10
