"""Rules for the Dockerfile; and, slow, the image built without a container engine and run as its user."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from benchmarks.workloads import shipped_workloads
from service.settings import PREFIX, Settings
from service.tasks import TASKS
from tests.deploy.engineless import ROOT, USER, Store, ask, missing_tools, running, wait_until_ready

TEXT = (ROOT / "Dockerfile").read_text()
LINES = TEXT.replace("\\\n", " ").splitlines()
FINAL = LINES[max(number for number, line in enumerate(LINES) if line.startswith("FROM ")) :]


def only(instruction: str) -> str:
    (line,) = (line for line in FINAL if line.startswith(instruction + " "))
    return line.removeprefix(instruction).strip()


def test_the_dockerfile_is_short_and_in_two_stages_of_one_base() -> None:
    assert len(TEXT.splitlines()) < 60
    assert [line for line in LINES if line.startswith("FROM ")] == ["FROM ${BASE} AS build", "FROM ${BASE}"]


def test_the_user_is_numeric_so_that_kubernetes_can_tell_it_is_not_root() -> None:
    assert only("USER") == USER


def test_signals_reach_the_service_because_the_entry_is_in_exec_form() -> None:
    assert json.loads(only("ENTRYPOINT")) == ["kotae"]
    assert json.loads(only("CMD")) == ["serve"]
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert "kotae" in scripts


def test_the_health_check_is_in_exec_form_and_asks_a_path_of_the_app() -> None:
    command = json.loads(only("HEALTHCHECK").split("CMD", 1)[1])
    assert command[:2] == ["python", "-c"]
    compile(command[2], "health check", "exec")
    assert "'/healthz'" in command[2]
    assert f"or {Settings.model_fields['port'].default})" in command[2]


def test_the_environment_names_are_settings_and_auth_is_left_to_whoever_runs_it() -> None:
    names = set(re.findall(rf"\b({PREFIX}[A-Z_]+)=", only("ENV")))
    assert names == {"KOTAE_HOST", "KOTAE_MODELS"}
    assert names <= {PREFIX + name.upper() for name in Settings.model_fields}


def test_the_extra_is_one_of_the_projects_and_dependencies_come_before_code() -> None:
    assert "ARG EXTRA=cpu" in LINES
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"cpu", "gpu"} <= extras.keys()
    order = [line for line in LINES if line.startswith("COPY ") and "--from" not in line]
    assert order.index("COPY pyproject.toml constraints.txt ./") < order.index("COPY service service")


def test_the_build_context_denies_all_first_and_has_what_is_copied() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {
        source
        for line in LINES
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    }
    assert copied == allowed


@pytest.mark.slow
def test_the_image_answers_as_its_user_on_a_read_only_tree(tmp_path: Path) -> None:
    if missing := missing_tools():
        message = f"needs {', '.join(missing)}"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    store = Store(tmp_path)
    store.build_base()
    store.build("kotae", REVISION="abc")
    config = store.config("kotae")
    assert config["Labels"]["org.opencontainers.image.revision"] == "abc"
    assert store.size_megabytes("kotae") < 600
    url = "http://127.0.0.1:18080"
    with store.mounted("kotae") as tree:
        assert not list(tree.glob("opt/venv/lib/python*/site-packages/torch"))
        python = ["chroot", f"--userspec={USER}", "--groups=", str(tree), "/opt/venv/bin/python"]
        seen = subprocess.run(
            [*python, "-v", "-c", "import service.app"], capture_output=True, text=True, check=True
        )
        assert "bytecode is stale" not in seen.stderr
        with running(tree, config) as process:  # neither keys nor KOTAE_AUTH=off
            assert process.wait(60) == 2
        with running(tree, config, KOTAE_AUTH="off", KOTAE_PORT="18080") as process:
            wait_until_ready(url)
            (golden,) = tree.glob("models/digits/1/golden")
            case = yaml.safe_load((golden / "golden.yaml").read_text())["cases"][0]
            status, answer = ask(f"{url}/v1/image-classification", (golden / case["file"]).read_bytes())
            expected = case["answer"]["predictions"][0]["label"]
            assert (status, answer["results"][0]["predictions"][0]["label"]) == (200, expected)
            shipped = shipped_workloads(tree / "models", TASKS)
            assert {workload.task for workload in shipped} == set(TASKS)
            for workload in shipped:
                route, body = workload.task, workload.items[0]
                if route == "text-embedding":
                    route, body = "embeddings", json.dumps({"input": body.decode()}).encode()
                assert ask(f"{url}/v1/{route}?model={workload.name}", body)[0] == 200, workload.name
            facts = Path(f"/proc/{process.pid}/status").read_text()
            assert re.search(r"^Uid:(\s+10001){4}$", facts, re.MULTILINE)
            inside = ["nsenter", "--target", str(process.pid), "--mount", "--root", "touch", "/opt/venv/x"]
            assert b"Read-only file system" in subprocess.run(inside, capture_output=True, check=False).stderr
            kept = ["nsenter", "--target", str(process.pid), "--mount", "--root", "ls", "-A", "/tmp"]
            assert subprocess.run(kept, capture_output=True, check=True).stdout == b""
            process.terminate()
            assert process.wait(60) == 0
