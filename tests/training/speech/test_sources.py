from pathlib import Path

import pytest
import yaml

from tests.training.speech.synthesisers import INSTALLED, hum
from training import __main__ as command_line
from training.recipes.load import load_recipe
from training.speech.synthetic import corpus, voices


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command in this process; returns its exit code."""
    monkeypatch.setattr("sys.argv", ["kotae-train", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        command_line.main()
    return int(stopped.value.code or 0)


def test_what_a_recipe_learns_from_is_spoken_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(voices, "installed_voices", lambda: INSTALLED)
    monkeypatch.setattr(corpus, "synthesize", hum)
    recipe = load_recipe("spoken-commands").model_dump(mode="json")
    speakers = {"validation": ["espeak:en-us+f1"], "test": ["flite:rms"]}
    recipe["data"] |= {"train": 30, "voices": speakers}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    assert run(monkeypatch, "data", "speech", tmp_path / "mine.yaml", "--runs", tmp_path / "runs") == 0
    assert capsys.readouterr().out.startswith("30 utterances by ")
    assert len(list((tmp_path / "runs").glob("spoken-*/samples.npy"))) == 1


def test_a_recipe_that_nothing_is_spoken_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "data", "speech", "digits", "--runs", tmp_path) == 1
    assert "digits does not learn from synthetic speech" in capsys.readouterr().err
