from pathlib import Path

import pytest
import yaml

from training.errors import DataRejected
from training.recipes.image_recipe import FolderData, ImageRecipe
from training.recipes.load import RECIPES_FOLDER, load_recipe
from training.recipes.recipe import Optimisation


def test_shipped_recipes_load_under_their_file_names() -> None:
    for file in RECIPES_FOLDER.glob("*.yaml"):
        assert load_recipe(file.stem).name == file.stem


def test_a_typing_mistake_in_a_recipe_is_an_error_that_names_the_key(tmp_path: Path) -> None:
    content = yaml.safe_load((RECIPES_FOLDER / "digits.yaml").read_text(encoding="utf-8"))
    content["optimisation"]["epoch"] = content["optimisation"].pop("epochs")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(DataRejected, match=r"mine\.yaml: optimisation\.epoch"):
        load_recipe(str(tmp_path / "mine.yaml"))


def test_an_unknown_recipe_is_told_with_the_known_ones() -> None:
    with pytest.raises(DataRejected, match="pictures"):
        load_recipe("digit")


def test_the_command_line_changes_data_name_and_seed() -> None:
    recipe = load_recipe("digits").changed(data=Path("cats"), name="cats", seed=7)
    assert isinstance(recipe, ImageRecipe)
    assert isinstance(recipe.data, FolderData)
    assert (recipe.data.path, recipe.name, recipe.seed) == (Path("cats"), "cats", 7)


def test_another_folder_keeps_the_recipes_other_data_settings() -> None:
    recipe = load_recipe("pictures").changed(data=Path("cats"), name=None, seed=None)
    assert isinstance(recipe, ImageRecipe)
    assert isinstance(recipe.data, FolderData)
    assert recipe.data.mirror


def test_a_small_training_part_is_gone_through_more_often() -> None:
    wanted = Optimisation(passes=2, least_steps=30, batch_size=10)
    assert wanted.passes_over(100) == 3
    assert wanted.passes_over(1000) == 2


def test_a_name_that_no_model_can_have_is_refused() -> None:
    with pytest.raises(DataRejected, match="pattern"):
        load_recipe("digits").changed(data=None, name="My Model", seed=None)
