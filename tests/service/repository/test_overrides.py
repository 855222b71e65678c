"""What one host changes about models: read strictly, written so that it reads the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from service.errors import StartFailed
from service.repository.manifest import Batching, ModelManifest
from service.repository.overrides import ModelOverrides, Overrides, read_overrides, write_overrides

MANIFEST = ModelManifest(
    name="digits", task="image-classification", batching=Batching(max_items=64, max_cost=99)
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "overrides.yaml"


def test_no_file_changes_nothing() -> None:
    overrides = read_overrides(None)
    assert overrides.for_model("digits") == ModelOverrides()
    assert overrides.for_model("digits").apply_to(MANIFEST) is MANIFEST


def test_keys_that_are_written_win_and_the_others_stay_the_manifests(file: Path) -> None:
    file.write_text("models: {digits: {threads: 2, batching: {max_items: 16}}}")
    model = read_overrides(file).for_model("digits")
    assert (model.threads, model.lanes, model.precision) == (2, None, "auto")
    changed = model.apply_to(MANIFEST)
    assert changed.batching == Batching(max_items=16, max_cost=99)
    assert changed.model_copy(update={"batching": MANIFEST.batching}) == MANIFEST


def test_the_cache_of_answers_can_be_given_and_taken_away(file: Path) -> None:
    file.write_text("models: {digits: {answer_cache_bytes: 1000}, words: {answer_cache_bytes: 0}}")
    overrides = read_overrides(file)
    keeping = overrides.for_model("digits").apply_to(MANIFEST)
    assert keeping == MANIFEST.model_copy(update={"answer_cache_bytes": 1000})
    assert overrides.for_model("words").apply_to(keeping).answer_cache_bytes == 0


def test_a_limit_can_be_taken_away(file: Path) -> None:
    file.write_text("models: {digits: {batching: {max_cost: null}}}")
    assert read_overrides(file).for_model("digits").apply_to(MANIFEST).batching.max_cost is None


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("models: {digits: {thread: 2}}", r"models\.digits\.thread"),
        ("models: {digits: {threads: 0}}", r"models\.digits\.threads"),
        ("models: {digits: {lanes: many}}", r"models\.digits\.lanes"),
        ("models: {digits: {precision: int4}}", r"models\.digits\.precision"),
        ("models: {digits: {batching: {max_items: 0}}}", r"models\.digits\.batching\.max_items"),
        ("models: {digits: {batching: {items: 1}}}", r"models\.digits\.batching\.items"),
        ("digits: {threads: 2}", "digits"),
        ("models: [", "cannot be read"),
        ("", "the document"),
    ],
)
def test_what_is_unknown_or_out_of_range_stops_the_start_and_is_named(
    file: Path, content: str, named: str
) -> None:
    file.write_text(content)
    with pytest.raises(StartFailed, match=named):
        read_overrides(file)


def test_a_file_that_is_named_must_be_there(file: Path) -> None:
    with pytest.raises(StartFailed, match="missing"):
        read_overrides(file)


def test_what_is_written_holds_what_was_set_and_no_more(file: Path) -> None:
    overrides = Overrides().with_model("digits", ModelOverrides(lanes=2, batching=Batching(max_items=16)))
    overrides = overrides.with_model("languages", ModelOverrides(precision="int8"))
    write_overrides(file, overrides)
    assert yaml.safe_load(file.read_text()) == {
        "models": {
            "digits": {"lanes": 2, "batching": {"max_items": 16}},
            "languages": {"precision": "int8"},
        }
    }
    assert read_overrides(file).for_model("digits").apply_to(MANIFEST).batching == Batching(
        max_items=16, max_cost=99
    )
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_the_memory_of_a_model_on_a_gpu_can_be_limited_here(file: Path) -> None:
    file.write_text("models: {digits: {memory_limit_bytes: 1073741824}}")
    changed = read_overrides(file).for_model("digits").apply_to(MANIFEST)
    assert changed == MANIFEST.model_copy(update={"memory_limit_bytes": 2**30})
