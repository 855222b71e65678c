from pathlib import Path, PurePosixPath

import pytest

from tests.training.data.fixtures import packages_hold
from training.data.debian_packages import package_files, run_command
from training.errors import DataRejected


def test_wanted_files_of_packages_are_given_in_the_packages_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("zoo", "ape"):
        (tmp_path / name / "usr").mkdir(parents=True)
        (tmp_path / name / "usr" / f"{name}.txt").write_text(name)
        (tmp_path / name / "usr" / "other").write_text("not wanted")
    packages_hold(monkeypatch, {name: tmp_path / name for name in ("zoo", "ape")})
    found = list(package_files(["zoo", "ape"], lambda path: path.suffix == ".txt"))
    assert found == [(PurePosixPath("usr/zoo.txt"), b"zoo"), (PurePosixPath("usr/ape.txt"), b"ape")]


def test_a_machine_without_apt_is_told_what_is_missing() -> None:
    with pytest.raises(DataRejected, match="packages are fetched with apt: apt-get-that-is-not-there failed"):
        run_command(["apt-get-that-is-not-there"])


def test_the_last_words_of_a_program_that_failed_are_told() -> None:
    with pytest.raises(DataRejected, match="sh failed: no mirror answers"):
        run_command(["sh", "-c", "echo reading >&2; echo no mirror answers >&2; exit 100"])
