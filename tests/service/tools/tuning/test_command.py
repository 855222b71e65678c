"""`kotae tune` on the command line: a table, a picture, and the override file that the service reads."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from service.__main__ import main
from service.errors import StartFailed
from service.repository.manifest import Batching
from service.repository.overrides import ModelOverrides, Overrides, read_overrides, write_overrides
from service.tools.tuning import command
from service.tools.tuning.sweep import Measurement, TuningSetting
from tests.tiny_models import make_model
from tests.tiny_text_models import make_text_model

Tune = Callable[..., tuple[int, str, str]]
QUICK = ("--seconds", 0.05, "--max-items", 2)
BEST = Measurement(TuningSetting(2, 3, 16), 10.0, 0.01)


@pytest.fixture
def tune(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tune:
    """Run `kotae tune` in this process: exit code, output, errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kotae", "tune", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), " ".join(printed.out.split()), printed.err

    monkeypatch.setenv("COLUMNS", "200")
    return run


def test_the_best_setting_is_written_to_the_override_file(
    tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path / "models")
    file, picture = tmp_path / "overrides.yaml", tmp_path / "tune.png"
    monkeypatch.setattr(command, "available_cpus", lambda: 2)
    monkeypatch.setenv("KOTAE_OVERRIDES", str(file))
    code, output, errors = tune("tiny", "--models", tmp_path / "models", *QUICK, "--picture", picture)
    assert code == 0, errors
    assert f"saved in {file}" in output
    assert "best" in output
    assert picture.read_bytes().startswith(b"\x89PNG")
    kept = read_overrides(file).for_model("tiny")
    assert kept.lanes is not None and kept.threads is not None and kept.batching is not None
    assert kept.lanes * kept.threads <= 2
    assert kept.batching.max_items <= 2
    assert kept.batching.model_fields_set == {"max_items"}


def test_texts_of_variable_length_without_an_override_file(tune: Tune, tmp_path: Path) -> None:
    make_text_model(tmp_path, "texts", "text-classification")
    code, output, errors = tune("texts", "--models", tmp_path, *QUICK, "--deadline-ms", 60_000)
    assert code == 0, errors
    assert "within 60000 ms" in output
    assert "not saved" in output


def test_a_deadline_that_no_setting_meets_is_an_error_after_the_table(tune: Tune, repository: Path) -> None:
    code, output, errors = tune("tiny", "--models", repository, *QUICK, "--deadline-ms", 0.000001)
    assert code == 2
    assert "within 1e-06 ms" in output
    assert "best" not in output
    assert "no setting answers within 1e-06 ms" in errors


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("nobody",), "is not a model"),
        (("empty",), "holds no version"),
        (("tiny", "--precision", "int8"), "no int8 variant is for cpu"),
    ],
)
def test_a_model_that_cannot_be_tuned_is_an_error(
    tune: Tune, tmp_path: Path, arguments: tuple[str, ...], problem: str
) -> None:
    make_model(tmp_path)
    (tmp_path / "empty").mkdir()
    manifest = (tmp_path / "tiny" / "model.yaml").read_text()
    (tmp_path / "empty" / "model.yaml").write_text(manifest.replace("tiny", "empty"))
    code, _, errors = tune(*arguments, "--models", tmp_path)
    assert code == 2
    assert problem in errors


def test_other_contents_of_the_override_file_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "overrides.yaml"
    other = ModelOverrides(threads=7)
    mine = ModelOverrides(precision="int8", batching=Batching(max_cost=99, max_items=3))
    write_overrides(file, Overrides(models={"other": other, "mine": mine}))
    command.save_overrides("mine", BEST, file)
    found = read_overrides(file)
    assert found.for_model("other") == other
    assert found.for_model("mine") == ModelOverrides(
        precision="int8", lanes=2, threads=3, batching=Batching(max_cost=99, max_items=16)
    )
    assert command.save_overrides("new", BEST, file, precision="fp32").for_model("new").precision == "fp32"
    assert "max_delay_seconds" not in file.read_text()


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match="cannot be written"):
        command.save_overrides("mine", BEST, tmp_path / "nowhere" / "overrides.yaml")


def test_without_matplotlib_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: object, **more: object) -> object:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(StartFailed, match="pip install matplotlib"):
        command.draw([BEST], BEST, 1.0, tmp_path / "x.png")


def test_a_busy_host_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    busy = Measurement(BEST.setting, 10.0, 0.01, cpu_share=0.4)
    command.print_table([busy], None, 1.0, Console(width=200))
    assert "sessions ran 40% of their time" in capsys.readouterr().out
