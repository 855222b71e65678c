import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from service.repository.manifest import VERSION_FILE, VersionFacts, read
from tests.training.conftest import tiny_recipe
from training import __main__ as command_line


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["kotae-train", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        command_line.main()
    return int(stopped.value.code or 0)


def test_build_makes_a_model_folder_from_any_folder_of_pictures(
    picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(tmp_path / "not-this-one", epochs=3).model_dump(mode="json")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    models, runs = tmp_path / "models", tmp_path / "runs"
    code = run(
        monkeypatch,
        *("build", tmp_path / "mine.yaml", "--data", picture_folder, "--name", "my-shapes"),
        *("--models", models, "--runs", runs, "--seed", 5),
    )
    assert code == 0
    facts = read(models / "my-shapes" / "1" / VERSION_FILE, VersionFacts)
    assert facts.provenance.seed == 5
    assert (runs / "my-shapes" / "evaluation.json").is_file()
    again = ("--name", "my-shapes", "--runs", runs)
    code = run(monkeypatch, "evaluate", tmp_path / "mine.yaml", "--data", picture_folder, *again,
               "--model", models / "my-shapes")  # fmt: skip
    assert code == 0


def test_blocks_are_trained_and_measured_one_after_the_other(
    picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_recipe(picture_folder, epochs=1, passes=1).model_dump(mode="json")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    code = run(monkeypatch, "evaluate", tmp_path / "mine.yaml", "--runs", tmp_path / "runs", "--blocks", 5)
    assert code == 0
    assert "mean accuracy over 5 contiguous blocks" in capsys.readouterr().out


@pytest.mark.parametrize(
    "case",
    [
        ("keywords", "*-seven.flac", "seven", "| everything | 1 | 100.00% |"),
        ("spoken-commands", "*-six-five.wav", "six five", "| everything | 1 | 2 | 0.00% |"),
    ],
    ids=lambda case: case[0],
)
def test_a_shipped_model_is_measured_on_a_users_recordings(
    case: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, sound, text, told = case
    model = Path(__file__).parents[2] / "models" / name
    (path,) = model.glob(f"*/golden/{sound}")
    (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "mine.csv").write_text(f"audio,text,speaker\n{path.name},{text},me\n", encoding="utf-8")
    asked = ("--recordings", tmp_path / "mine.csv", "--model", model, "--runs", tmp_path / "runs")
    assert run(monkeypatch, "evaluate", name, *asked) == 0
    heard = capsys.readouterr().out
    assert told in heard and "| me | 1 |" in heard


def test_a_mistake_of_the_user_is_one_line_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "build", "no-such-recipe") == 1
    assert capsys.readouterr().err.startswith("error: there is no recipe no-such-recipe")


def test_without_the_extra_one_line_says_which_to_install() -> None:
    code = "import sys; sys.modules['sklearn'] = None; import training.__main__ as m; m.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "build", "digits"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "error: sklearn is missing: training needs pip install 'kotae[cpu,train]'\n"


def test_asking_for_help_loads_no_torch() -> None:
    code = "import sys, training.__main__ as m; assert not {'torch', 'lightning', 'onnx'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
