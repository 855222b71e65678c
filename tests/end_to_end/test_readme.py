"""The README's own requests, sent by curl to the shipped models: the answers are those that it shows."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.server import Server, serving

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```console\n\$ (curl .*?[^\\])\n(\{.*?)\n```", README, re.S)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(REPOSITORY / "models") as server:
        yield server


def same(shown: Any, got: Any, path: str = "") -> None:
    """Compare by value; numbers nearly, ids not at all, and lists and texts that end in … as beginnings."""
    if path.endswith((".id", ".request_id")):
        return
    if isinstance(shown, dict):
        assert isinstance(got, dict) and shown.keys() == got.keys(), path
        for key in shown:
            same(shown[key], got[key], f"{path}.{key}")
    elif isinstance(shown, list):
        assert isinstance(got, list)
        shown = shown[: shown.index("…")] if "…" in shown else shown
        for index, value in enumerate(shown):
            same(value, got[index], f"{path}[{index}]")
    elif isinstance(shown, float):
        assert got == pytest.approx(shown, abs=2e-3), path
    else:
        assert got == shown, path


def test_the_readme_shows_a_request() -> None:
    assert EXAMPLES


@pytest.mark.parametrize(("command", "answer"), EXAMPLES, ids=[command for command, _ in EXAMPLES])
def test_a_request_of_the_readme_gets_the_answer_that_it_shows(
    server: Server, command: str, answer: str
) -> None:
    if shutil.which("curl") is None:
        assert "CI" not in os.environ, "curl is missing"
        pytest.skip("curl is missing")
    here = command.replace("http://127.0.0.1:8080", server.url).replace("curl ", "curl --silent ", 1)
    done = subprocess.run(["sh", "-c", here], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    same(json.loads(answer), json.loads(done.stdout))
