from pathlib import Path

import pytest

from training.errors import DataRejected
from training.recipes.load import load_recipe
from training.recipes.speech_recipe import (
    KeywordsRecipe,
    SpeechFolderData,
    SpeechRecipe,
    SpeechTableData,
    SpokenCommandsData,
    SpokenWordsData,
)


def test_a_recipe_for_speech_learns_from_a_folder_or_a_table_instead() -> None:
    recipe = load_recipe("spoken-commands")
    folder = recipe.changed(data=Path("mine"), name="mine", seed=None)
    assert isinstance(folder, SpeechRecipe) and folder.data == SpeechFolderData(path=Path("mine"))
    table = recipe.changed(data=Path("mine.csv"), name=None, seed=None)
    assert isinstance(table, SpeechRecipe) and table.data == SpeechTableData(path=Path("mine.csv"))


def test_columns_of_a_table_are_kept_when_another_table_is_learnt_from() -> None:
    recipe = load_recipe("keywords")
    assert isinstance(recipe, KeywordsRecipe)
    first = recipe.model_copy(update={"data": SpeechTableData(path=Path("a.csv"), text="label", group="who")})
    changed = first.changed(data=Path("b.csv"), name=None, seed=None)
    assert changed.data == SpeechTableData(path=Path("b.csv"), text="label", group="who")


def test_both_shipped_recipes_hold_out_the_same_voices() -> None:
    commands, words = load_recipe("spoken-commands"), load_recipe("keywords")
    assert isinstance(commands, SpeechRecipe) and isinstance(words, KeywordsRecipe)
    assert isinstance(commands.data, SpokenCommandsData) and isinstance(words.data, SpokenWordsData)
    assert commands.data.voices == words.data.voices
    assert not set(commands.data.voices.validation) & set(commands.data.voices.test)


@pytest.mark.parametrize("name", ["keywords", "spoken-commands"])
def test_a_shipped_model_can_be_measured_on_any_recordings(name: str) -> None:
    measured = load_recipe(name).measured_on(Path("mine.csv"))
    assert isinstance(measured, KeywordsRecipe | SpeechRecipe)
    assert measured.data == SpeechTableData(path=Path("mine.csv"), whole=True)


def test_only_models_that_hear_are_measured_on_recordings() -> None:
    with pytest.raises(DataRejected, match="image-classification has no use for recordings"):
        load_recipe("digits").measured_on(Path("mine.csv"))


def test_a_checkpoint_to_start_from_is_kept_in_the_recipe() -> None:
    recipe = load_recipe("spoken-commands").changed(start=Path("best.ckpt"))
    assert isinstance(recipe, SpeechRecipe) and recipe.start == Path("best.ckpt")


def test_speech_cannot_be_named_what_no_model_can_be() -> None:
    with pytest.raises(DataRejected, match="the recipe does not allow this"):
        load_recipe("keywords").changed(data=None, name="No Such Name", seed=None)
