"""Items for a sweep fit the graph and the limits of the version."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.repository.golden import read_golden_arrays, write_golden_arrays
from service.repository.manifest import VERSION_FILE, AudioInput, TextInput, VersionFacts, read
from service.tools.tuning.items import lengths, make_items
from tests.tiny_text_models import MAX_TOKENS, make_text_model


def facts_of(folder: Path) -> VersionFacts:
    return read(folder / VERSION_FILE, VersionFacts)


def test_pictures_repeat_the_golden_ones(repository: Path) -> None:
    folder = repository / "tiny" / "1"
    golden, _ = read_golden_arrays(folder)
    made = make_items(folder, facts_of(folder), 12)
    assert [item.cost for item in made] == [1] * 12
    np.testing.assert_array_equal(made[7].inputs["image"], golden["image"][2])  # there are five


def test_texts_have_mixed_lengths_without_padding_and_are_sorted(tmp_path: Path) -> None:
    folder = make_text_model(tmp_path, "texts", "text-embedding")
    made = make_items(folder, facts_of(folder), 50)
    costs = [item.cost for item in made]
    assert costs == sorted(costs)
    assert len(set(costs)) > 10
    assert costs[0] >= 2 and costs[-1] <= MAX_TOKENS
    for item in made:
        assert item.inputs["input_ids"].shape == item.inputs["attention_mask"].shape == (item.cost,)
        assert item.inputs["attention_mask"].all()
        assert item.inputs["input_ids"].all()  # 0 is padding


def test_sounds_have_their_length_as_input(tmp_path: Path, repository: Path) -> None:
    audio = np.ones((2, 500), dtype=np.float32)
    audio[1, 100:] = 0
    write_golden_arrays(tmp_path, {"audio": audio, "lengths": np.array([500, 100])}, {"y": audio})
    spec = AudioInput(sample_rate=4000, min_seconds=0.1, max_seconds=2)
    facts = facts_of(repository / "tiny" / "1").model_copy(update={"input": spec})
    for item in make_items(tmp_path, facts, 20):
        assert item.inputs["audio"].shape == (item.cost,)
        assert item.inputs["lengths"] == item.cost
        assert item.inputs["audio"].all()
        assert 400 <= item.cost <= 8000


@pytest.mark.parametrize("spec", [TextInput(max_tokens=8), AudioInput(max_seconds=0.5)])
def test_lengths_are_within_the_limits_of_the_version(spec: TextInput | AudioInput) -> None:
    most = spec.max_tokens if isinstance(spec, TextInput) else 8000
    drawn = lengths(spec, 500, seed=1)
    assert max(drawn) == most
    assert min(drawn) >= 2
    assert drawn == lengths(spec, 500, seed=1)
