import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from service.repository.manifest import ImageInput
from service.tasks.image.preprocessing import decode_image
from tests.training.conftest import COUNTS, fill_folder
from training.errors import DataRejected
from training.images.image_folder import ImageFolder
from training.recipes.image_recipe import FolderData

RGB = ImageInput(width=16, height=12, channels=3)
GREY = ImageInput(width=16, height=12, channels=1)


def test_each_sub_folder_is_a_class_in_the_order_of_names(picture_folder: Path) -> None:
    source = ImageFolder(FolderData(path=picture_folder), RGB)
    assert source.classes == tuple(sorted(COUNTS))
    assert np.bincount(source.labels).tolist() == [COUNTS[name] for name in source.classes]


@pytest.mark.parametrize("spec", [RGB, GREY])
def test_pictures_are_decoded_as_the_service_decodes_them(picture_folder: Path, spec: ImageInput) -> None:
    source = ImageFolder(FolderData(path=picture_folder), spec)
    everything = np.arange(len(source.labels))
    assert source.pixels.shape == (len(everything), 12, 16, spec.channels)
    for file, pixels in zip(source.files(everything), source.pixels, strict=True):
        assert np.array_equal(decode_image(file, spec, max_pixels=10_000), pixels)


def test_an_unreadable_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    fill_folder(tmp_path)
    (tmp_path / "disc" / "notes.txt").write_text("not a picture")
    with pytest.raises(DataRejected, match=r"1 files cannot be read(.|\n)*notes\.txt"):
        ImageFolder(FolderData(path=tmp_path), RGB)


def test_an_unreadable_file_is_left_out_loudly_where_that_is_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill_folder(tmp_path)
    (tmp_path / "disc" / "notes.txt").write_text("not a picture")
    with caplog.at_level(logging.WARNING):
        source = ImageFolder(FolderData(path=tmp_path, unreadable="skip"), RGB)
    assert len(source.labels) == sum(COUNTS.values())
    assert "1 files cannot be read" in caplog.text


def test_hidden_files_and_folders_are_left_alone(tmp_path: Path) -> None:
    fill_folder(tmp_path)
    (tmp_path / ".cache").mkdir()
    (tmp_path / "disc" / ".DS_Store").write_bytes(b"\0")
    assert len(ImageFolder(FolderData(path=tmp_path), RGB).classes) == len(COUNTS)


def test_a_missing_folder_a_single_class_and_an_empty_class_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataRejected, match="there is no folder"):
        ImageFolder(FolderData(path=tmp_path / "none"), RGB)
    (tmp_path / "one").mkdir()
    with pytest.raises(DataRejected, match="at least two"):
        ImageFolder(FolderData(path=tmp_path), RGB)
    fill_folder(tmp_path)
    with pytest.raises(DataRejected, match="class one has no picture"):
        ImageFolder(FolderData(path=tmp_path), RGB)


def test_varied_pictures_stay_pixels_and_repeat_with_the_generator(picture_folder: Path) -> None:
    source = ImageFolder(FolderData(path=picture_folder, mirror=True), RGB)
    vary = source.augmentation()
    pixels = vary.prepare(torch.from_numpy(source.pixels[:8]))
    first, second, other = (vary(pixels, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert first.shape == pixels.shape
    assert torch.equal(first, first.round().clamp(0, 255))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
