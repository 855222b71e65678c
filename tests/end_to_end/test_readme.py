"""The README's own requests, sent by curl to the shipped models: the answers are those that it shows."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

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


def test_the_drawn_picture_is_the_answer_to_the_one_beside_it(server: Server) -> None:
    sent, shown = re.findall(r"^\| !\[.*?\]\((\S+)\) \| !\[.*?\]\((\S+)\) \|$", README, re.M)[0]
    assert any(sent in command for command, _ in EXAMPLES)
    url = f"{server.url}/v1/object-detection?format=image"
    answer = httpx.post(url, content=(REPOSITORY / sent).read_bytes()).raise_for_status()
    with Image.open(BytesIO(answer.content)) as got, Image.open(REPOSITORY / shown) as drawn:
        differs = (np.asarray(got) != np.asarray(drawn)).any(axis=2)
    assert differs.mean() < 0.01  # another machine may round a score or an edge the other way
