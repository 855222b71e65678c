"""COCO data sets as labelling tools write them, whole and broken."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from tests.training.detection.fixtures import tiny_detection_recipe, write_coco_folder
from training.detection.coco import CocoFolder
from training.errors import DataRejected
from training.recipes.detection_recipe import CocoData, DetectionRecipe
from training.recipes.load import load_recipe

Document = dict[str, Any]


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    return write_coco_folder(tmp_path / "things", pictures=12)


def changed(path: Path, change: Callable[[Document], object]) -> Path:
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def opened(path: Path, **data: Any) -> CocoFolder:
    recipe = tiny_detection_recipe(path)
    return CocoFolder(recipe.model_copy(update={"data": CocoData(path=path, **data)}))


def counts(source: CocoFolder) -> tuple[int, int, int]:
    learnt = source.training_set()
    return len(learnt.images), len(source.validation_files()), len(source.held_out_files())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: d["annotations"][3].update(image_id=999), r"annotations\.3 is of image 999, which"),
        (lambda d: d["annotations"][3].update(category_id=8), r"annotations\.3 is of category 8, which"),
        (lambda d: d["annotations"][3].update(bbox=[1, 2, -3, 4]), r"annotations\.3\.bbox\.2: .*greater"),
        (lambda d: d["annotations"][3].pop("bbox"), r"annotations\.3\.bbox: Field required"),
        (lambda d: d["images"][2].update(file_name="gone.png"), r"1 pictures.*\n.*gone\.png: there is no"),
        (lambda d: [i.update(file_name="x/" + i["file_name"]) for i in d["images"]], "none of them is in"),
        (lambda d: d["images"][2].update(width=64, height=96), r"002\.png: 96 x 96 pixels .* says 64 x 96"),
        (lambda d: d["images"].append({**d["images"][0], "id": 99}), r"images\.12 has the file_name of"),
        (lambda d: d["images"][2].update(id=1), r"images\.2 has the id of images\.1, 1"),
        (lambda d: d.pop("categories"), "categories: Field required"),
        (lambda d: d["categories"].append({"id": 7, "name": "else"}), "same id"),
        (lambda d: d["categories"][0].update(name="disc"), "same name"),
        (lambda d: d.update(annotations=[]), "no box to learn from"),
        (lambda d: d.update(images=d["images"][:2], annotations=d["annotations"][:4]), "too few"),
    ],
)  # fmt: skip
def test_a_broken_coco_file_is_told_by_the_place_of_the_mistake(
    annotations: Path, change: Callable[[Document], object], told: str
) -> None:
    with pytest.raises(DataRejected, match=told):
        opened(changed(annotations, change))


def test_a_coco_file_that_is_not_there_or_is_no_json_is_told(annotations: Path, tmp_path: Path) -> None:
    for path, told in (
        (tmp_path / "none.json", "there is no COCO file in .*none.json"),
        (annotations.parent / "000.png", "JSON"),
        (tmp_path, "there is no COCO file in"),
    ):
        with pytest.raises(DataRejected, match=told):
            opened(path)


def test_what_is_no_single_thing_in_its_picture_is_left_out_and_told(annotations: Path) -> None:
    def spoil(document: Document) -> None:
        for annotation in document["annotations"][:5]:
            annotation["iscrowd"] = 1
        document["annotations"][5]["bbox"] = [300, 300, 10, 10]
        document["annotations"][6]["bbox"] = [3, 4, 0, 7]
        document["annotations"][7]["bbox"] = [-20.5, 10, 40.5, 500]
        document["categories"].insert(0, {"id": 0, "name": "disc", "supercategory": "none"})

    source = opened(changed(annotations, spoil))
    assert "12 pictures with 17 boxes: block, disc" in source.description
    assert "5 of crowds; 2 outside of the picture or without area; categories without" in source.description
    assert source.classes == ("block", "disc")
    picture = next(picture for picture in source._train + source._validation + source._test
                   if picture.name == "003.png")  # fmt: skip
    np.testing.assert_array_equal(picture.boxes_xyxy[-1], [0, 10, 20, 64])


def test_a_category_that_nothing_shows_is_no_label(annotations: Path) -> None:
    unused = {"id": 1, "name": "never seen"}
    source = opened(changed(annotations, lambda d: d["categories"].append(unused)))
    assert source.classes == ("block", "disc")
    assert source.description.endswith("(left out: categories without a box: never seen)")


def test_every_layout_of_a_data_set_is_found(annotations: Path, tmp_path: Path) -> None:
    pictures = sorted(annotations.parent.glob("*.png"))

    def lay_out(name: str, *places: tuple[str, str]) -> Path:
        folder = tmp_path / name
        for file, images in places:
            (folder / images).mkdir(parents=True, exist_ok=True)
            for picture in pictures:
                (folder / images / picture.name).write_bytes(picture.read_bytes())
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(annotations.read_bytes())
        return folder

    one = (8, 2, 2)
    assert counts(opened(annotations.parent)) == one
    assert counts(opened(lay_out("label-studio", ("result.json", "images")))) == one
    assert counts(opened(lay_out("cvat", ("annotations/instances_default.json", "images")))) == one
    assert (
        counts(opened(lay_out("new-cvat", ("annotations/instances_default.json", "images/default")))) == one
    )
    name = "_annotations.coco.json"
    parts = [(f"{part}/{name}", part) for part in ("train", "valid", "test")]
    assert counts(opened(lay_out("roboflow", *parts))) == (12, 12, 12)
    assert counts(opened(lay_out("roboflow-of-two", *parts[::2]))) == (10, 2, 12)
    assert opened(tmp_path / "roboflow").split == f"test/{name} for testing"
    years = [(f"annotations/instances_{part}2017.json", f"{part}2017") for part in ("train", "val")]
    assert counts(opened(lay_out("coco", *years))) == (10, 12, 2)
    with pytest.raises(DataRejected, match=r"several COCO files \(a\.json, b\.json\): give the path of one"):
        opened(lay_out("two", ("a.json", "."), ("b.json", ".")))
    with pytest.raises(DataRejected, match=r"several COCO files \(a\.json, b\.json\): give the path of one"):
        opened(lay_out("two-of-a-part", ("train/a.json", "train"), ("train/b.json", "train")))
    elsewhere = lay_out("elsewhere", ("truth/all.json", "far/away"))
    assert counts(opened(elsewhere / "truth", images=elsewhere / "far" / "away")) == one


def test_parts_of_their_own_may_be_named(annotations: Path) -> None:
    source = opened(annotations, validation=annotations, test=annotations)
    assert counts(source) == (12, 12, 12)
    assert source.split == "things/annotations.json for testing"


def test_a_part_may_not_show_what_is_not_learnt(annotations: Path, tmp_path: Path) -> None:
    other = changed(
        write_coco_folder(tmp_path / "other", 3), lambda d: d["categories"][0].update(name="brick")
    )
    with pytest.raises(DataRejected, match="category 'brick' has no box in what is learnt from"):
        opened(annotations, test=other)


def test_names_in_folders_of_windows_and_turned_pictures_are_understood(annotations: Path) -> None:
    folder = annotations.parent
    (folder / "a b").mkdir()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    with Image.open(folder / "000.png") as upright:  # 96 x 64
        upright.transpose(Image.Transpose.ROTATE_90).convert("CMYK").save(folder / "a b" / "1.jpg", exif=exif)
    (folder / "000.png").unlink()
    source = opened(changed(annotations, lambda d: d["images"][0].update(file_name="a b\\1.jpg")))
    learnt = source._train + source._validation + source._test
    (picture,) = (picture for picture in learnt if picture.name == "a-b-1.jpg")
    assert picture.boxes_xyxy[:, 2].max() > 48  # the box in its right half is not cut at a width of 64


def test_a_users_model_is_neither_the_default_one_nor_waited_for(annotations: Path) -> None:
    recipe = load_recipe("digit-scenes")
    own = recipe.changed(data=annotations.parent, name="mine")
    assert isinstance(own, DetectionRecipe) and own.data == CocoData(path=annotations.parent)
    assert recipe.manifest.default and recipe.manifest.required
    assert not own.manifest.default and not own.manifest.required
    assert own.manifest.description == "Trained on things."
    same = recipe.changed(name="digit-scenes").manifest
    assert same.default and same.required
