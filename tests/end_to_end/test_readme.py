"""The examples of README.md and docs/api.md run against the shipped models and give the answers shown."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
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
API = (REPOSITORY / "docs/api.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```console\n\$ (curl .*?[^\\])\n(\{.*?)\n```", README + API, re.S)
PYTHON_EXAMPLES = re.findall(r"```python\n(.*?)```", README + API, re.S)
ADDRESS = "http://127.0.0.1:8080"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(REPOSITORY / "models") as server:
        yield server


def same(shown: Any, got: Any, path: str = "") -> None:
    """Assert that two JSON values are equal, except for ids and small differences of floats."""
    if path.endswith((".id", ".request_id")):
        return
    if isinstance(shown, dict):
        assert isinstance(got, dict) and shown.keys() == got.keys(), path
        for key in shown:
            same(shown[key], got[key], f"{path}.{key}")
    elif isinstance(shown, list):
        assert isinstance(got, list) and len(shown) == len(got), path
        for index, value in enumerate(shown):
            same(value, got[index], f"{path}[{index}]")
    elif isinstance(shown, float):
        assert got == pytest.approx(shown, abs=2e-3), path
    else:
        assert got == shown, path


def test_the_readme_has_an_example_for_every_task(server: Server) -> None:
    paths = httpx.get(f"{server.url}/openapi.json").json()["paths"]
    tasks = {path for path, methods in paths.items() if path.startswith("/v1/") and "post" in methods}
    shown = re.findall(rf"{ADDRESS}(/v1/[\w/-]+)", "".join(re.findall(r"```console\n(.*?)```", README, re.S)))
    assert tasks == set(shown)


def test_the_api_page_names_every_route_and_every_parameter(server: Server) -> None:
    for path, methods in httpx.get(f"{server.url}/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            assert f"`{method.upper()} {path}`" in API
            names = [entry["name"] for entry in operation.get("parameters", []) if entry["in"] != "path"]
            for content in operation.get("requestBody", {}).get("content", {}).values():
                names += content["schema"].get("properties", {})
            for name in names:
                assert f"`{name}`" in API or f'"{name}":' in API, f"{name} of {path}"


@pytest.mark.parametrize(("command", "answer"), EXAMPLES, ids=[command for command, _ in EXAMPLES])
def test_an_example_gets_the_answer_shown(server: Server, command: str, answer: str) -> None:
    if shutil.which("curl") is None:
        assert "CI" not in os.environ, "curl is missing"
        pytest.skip("curl is missing")
    here = command.replace(ADDRESS, server.url).replace("curl ", "curl --silent ", 1)
    done = subprocess.run(["sh", "-c", here], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    same(json.loads(answer), json.loads(done.stdout))


@pytest.mark.parametrize("example", PYTHON_EXAMPLES)
def test_a_python_example_prints_what_its_comments_say(server: Server, example: str) -> None:
    pytest.importorskip("openai")
    command = [sys.executable, "-c", example.replace(ADDRESS, server.url)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == re.findall(r"print\(.*  # (.*)$", example, re.M)


def test_the_drawn_picture_is_the_answer_to_the_one_beside_it(server: Server) -> None:
    sent, shown = re.findall(r"^\| !\[.*?\]\((\S+)\) \| !\[.*?\]\((\S+)\) \|$", README, re.M)[0]
    assert any(sent in command for command, _ in EXAMPLES)
    url = f"{server.url}/v1/object-detection?format=image"
    answer = httpx.post(url, content=(REPOSITORY / sent).read_bytes()).raise_for_status()
    with Image.open(BytesIO(answer.content)) as got, Image.open(REPOSITORY / shown) as drawn:
        differs = (np.asarray(got) != np.asarray(drawn)).any(axis=2)
    assert differs.mean() < 0.01  # another machine may round a score or an edge the other way
