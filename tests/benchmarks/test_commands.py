"""Every benchmark runs and leaves its files. Figures are not checked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import MAIN, REST, SPECIAL
from tests.service.test_imports import ROOT

_FAST = ("variable_length", "overload", "probes", "soak")  # all kinds of servers and loads
_ROWS = {"variable_length": "over the length-sorted ideal", "overload": "tiny at 5x: goodput over peak"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in _FAST else pytest.mark.slow) for name in (*MAIN, *REST)],
)
def test_a_quick_run_leaves_a_table_and_a_picture(name: str, cache: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", name, "--quick", "--output", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a quick run: these figures mean nothing" in done.stdout
    content = json.loads((tmp_path / f"{name}.json").read_text())
    assert content["benchmark"] == f"python -m benchmarks {name}"
    assert content["quick"] is True
    assert content["machine"]["cpus"]
    assert content["rows"]
    if name in _ROWS:
        assert _ROWS[name] in {row["what"] for row in content["rows"]}
    if name == "soak":
        unmet = [
            row["what"] for row in content["rows"] if row["met"] != "yes" and "memory" not in row["what"]
        ]
        assert unmet == []
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_an_unknown_benchmark_is_an_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "nothing"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "no such benchmark: nothing" in done.stderr


def test_the_readme_has_a_row_for_every_benchmark() -> None:
    text = (ROOT / "benchmarks" / "README.md").read_text()
    assert [name for name in (*MAIN, *REST, *SPECIAL) if f"\n| `{name}` |" not in text] == []
