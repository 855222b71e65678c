"""The command line, `kotae`: its output and exit codes."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.__main__ import main
from service.engine.devices import cuda_problem
from tests.tiny_models import make_model

ROOT = Path(__file__).resolve().parents[2]


class CommandResult:
    """Output and exit code of a command."""

    def __init__(self, code: int, output: str, errors: str) -> None:
        self.code = code
        self.output = " ".join(output.split())
        self.error_lines = errors.splitlines()

    @property
    def error(self) -> str:
        assert len(self.error_lines) == 1, self.error_lines
        return self.error_lines[0]


Kotae = Callable[..., CommandResult]


@pytest.fixture
def kotae(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Kotae]:
    """Run a command in this process."""

    def run(*arguments: object) -> CommandResult:
        monkeypatch.setattr(sys, "argv", ["kotae", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return CommandResult(int(ended.value.code or 0), printed.out, printed.err)

    monkeypatch.setenv("COLUMNS", "400")
    yield run
    logging.disable(logging.NOTSET)


def serve(*arguments: object, **environment: str) -> CommandResult:
    """Run `kotae serve` in a process of its own, where it is expected not to start."""
    done = subprocess.run(
        [sys.executable, "-m", "service", "serve", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return CommandResult(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A sound model, one with a wrong file and one with a wrong manifest."""
    make_model(tmp_path, "sound", description="Noise, told [apart].", default=True)
    (make_model(tmp_path, "damaged") / "labels.txt").unlink()
    manifest = make_model(tmp_path, "mistaken").parent / "model.yaml"
    manifest.write_text(manifest.read_text() + "defualt: true\n")
    return tmp_path


def test_help_lists_the_commands(kotae: Kotae) -> None:
    answer = kotae("--help")
    assert answer.code == 0
    assert {"serve", "models"} <= set(answer.output.split())


def test_an_unknown_command_is_code_2(kotae: Kotae) -> None:
    assert kotae("sevre").code == 2


# --- models list, show -----------------------------------------------------------------------


def test_list_shows_each_model_and_the_error_of_a_wrong_manifest(kotae: Kotae, mixed: Path) -> None:
    answer = kotae("models", "list", "--models", mixed)
    assert answer.code == 0
    assert "sound" in answer.output
    assert "Noise, told [apart]." in answer.output
    assert "model.yaml: defualt: Extra inputs are not permitted" in answer.output


def test_list_uses_the_folder_of_the_environment(
    kotae: Kotae, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KOTAE_MODELS", str(repository))
    assert "tiny" in kotae("models", "list").output


@pytest.mark.parametrize("command", ["list", "verify"])
def test_a_folder_that_is_not_there_ends_in_one_line(kotae: Kotae, tmp_path: Path, command: str) -> None:
    answer = kotae("models", command, "--models", tmp_path / "nowhere")
    assert answer.code == 2
    assert f"the models folder {tmp_path / 'nowhere'} does not exist" in answer.error


def test_show_prints_the_manifest_and_the_newest_facts(kotae: Kotae, tmp_path: Path) -> None:
    make_model(tmp_path, description="Noise, told [apart].")
    answer = kotae("models", "show", "tiny", "--models", tmp_path)
    assert answer.code == 0
    assert "model.yaml" in answer.output
    assert "Noise, told [apart]." in answer.output
    assert "1/version.yaml" in answer.output
    assert "golden/noise.png: sha256:" in answer.output


def test_show_of_a_model_without_versions_prints_its_manifest(kotae: Kotae, tmp_path: Path) -> None:
    (make_model(tmp_path) / "version.yaml").unlink()
    answer = kotae("models", "show", "tiny", "--models", tmp_path)
    assert answer.code == 0
    assert "version.yaml" not in answer.output


def test_show_of_an_unknown_model_is_one_line_and_code_2(kotae: Kotae, repository: Path) -> None:
    answer = kotae("models", "show", "tiy", "--models", repository)
    assert answer.code == 2
    assert "tiy is not a model" in answer.error


# --- models verify ---------------------------------------------------------------------------


def test_verify_of_sound_models_is_code_0(kotae: Kotae, repository: Path) -> None:
    answer = kotae("models", "verify", "--models", repository, "--device", "cpu")
    assert answer.code == 0
    assert "ready" in answer.output
    assert "failed" not in answer.output
    assert answer.error_lines == []


def test_verify_prints_every_reason_and_is_code_1(kotae: Kotae, mixed: Path) -> None:
    answer = kotae("models", "verify", "--models", mixed)
    assert answer.code == 1
    assert "labels.txt is missing" in answer.output
    assert "model.yaml: defualt" in answer.output
    assert "ready" in answer.output


def test_verify_of_one_model_loads_no_other(kotae: Kotae, mixed: Path) -> None:
    assert kotae("models", "verify", "sound", "--models", mixed).code == 0
    assert kotae("models", "verify", "damaged", "--models", mixed).code == 1


def test_verify_loads_versions_that_do_not_serve(kotae: Kotae, tmp_path: Path) -> None:
    old = make_model(tmp_path, version=1)
    newer = make_model(tmp_path / ".staging", version=2)
    newer.rename(old.parent / "2")
    assert kotae("models", "verify", "--models", tmp_path).code == 0
    (old / "labels.txt").unlink()
    answer = kotae("models", "verify", "--models", tmp_path)
    assert answer.code == 1
    assert "labels.txt is missing" in answer.output


def test_verify_of_an_unknown_model_is_one_line_and_code_2(kotae: Kotae, repository: Path) -> None:
    answer = kotae("models", "verify", "tiy", "tiny", "--models", repository)
    assert answer.code == 2
    assert answer.error == "kotae: no such model: tiy"


def test_verify_of_an_empty_folder_is_code_1(kotae: Kotae, tmp_path: Path) -> None:
    assert kotae("models", "verify", "--models", tmp_path).code == 1


@pytest.mark.skipif(cuda_problem() is None, reason="this machine has CUDA")
def test_verify_on_a_missing_device_gives_the_reason(kotae: Kotae, repository: Path) -> None:
    answer = kotae("models", "verify", "--models", repository, "--device", "cuda")
    assert answer.code == 1
    assert "device cuda was asked for" in answer.output


def test_a_wrong_setting_is_one_line_and_code_2(kotae: Kotae, repository: Path) -> None:
    answer = kotae("models", "verify", "--models", repository, "--device", "tpu")
    assert answer.code == 2
    assert "device" in answer.error


# --- keys ------------------------------------------------------------------------------------


def test_a_new_key_is_printed_and_only_its_hash_is_stored(kotae: Kotae, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    first, second = (kotae("keys", name, "--file", file) for name in ("one", "two"))
    assert (first.code, second.code) == (0, 0)
    stored = file.read_text()
    for answer in (first, second):
        assert answer.output.startswith("kotae_")
        assert answer.output not in stored
        assert hashlib.sha256(answer.output.encode()).hexdigest() in stored
    assert file.stat().st_mode & 0o077 == 0


def test_a_key_of_an_unknown_scope_ends_in_one_line(kotae: Kotae, tmp_path: Path) -> None:
    answer = kotae("keys", "one", "--file", tmp_path / "keys.yaml", "--scope", "everything")
    assert answer.code == 2
    assert "scopes" in answer.error
    assert not (tmp_path / "keys.yaml").exists()


def test_a_key_that_cannot_be_stored_ends_in_one_line(kotae: Kotae, tmp_path: Path) -> None:
    answer = kotae("keys", "one", "--file", tmp_path / "nowhere" / "keys.yaml")
    assert answer.code == 2
    assert "nowhere" in answer.error


# --- serve -----------------------------------------------------------------------------------


@pytest.mark.skipif(cuda_problem() is None, reason="this machine has CUDA")
def test_serving_on_cuda_where_there_is_none_ends_and_says_what_is_missing(repository: Path) -> None:
    answer = serve("--models", repository, "--port", 0, "--device", "cuda")
    assert answer.code == 2
    assert answer.error == f"kotae: device cuda was asked for, but {cuda_problem()}"


def test_serving_a_folder_that_is_not_there_ends_in_one_line(tmp_path: Path) -> None:
    answer = serve("--models", tmp_path / "nowhere", "--port", 0)
    assert answer.code == 2
    assert f"the models folder {tmp_path / 'nowhere'} does not exist" in answer.error


def test_serving_with_an_unknown_setting_ends_in_one_line() -> None:
    answer = serve("--port", 0, KOTAE_PROT="8080")
    assert answer.code == 2
    assert answer.error == "kotae: unknown setting in the environment: KOTAE_PROT"


def test_serving_with_a_broken_file_of_settings_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "kotae.yaml").write_text("port: [\n")
    answer = serve("--config", tmp_path / "kotae.yaml")
    assert answer.code == 2
    assert answer.error.startswith("kotae: settings: ")


def test_serving_on_an_address_in_use_ends_in_one_line(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = serve("--models", repository, "--port", port)
    assert answer.code == 2
    assert answer.error.startswith(f"kotae: cannot listen on 127.0.0.1:{port}: ")
