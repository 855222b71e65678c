"""The rules are valid for Prometheus; each alert has tests and a section in the runbook."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.observability.queries import DASHBOARDS, RULES, panels_of, read_dashboard, read_rules
from service.settings import Settings
from service.tasks import TASKS

REPOSITORY = Path(__file__).parents[2]
RULES_TESTS = sorted((Path(__file__).parent / "rules_tests").glob("*.yaml"))
RUNBOOK = REPOSITORY / "docs" / "runbook.md"
ALERTS = {rule["alert"]: rule for rule in read_rules() if "alert" in rule}
HEADINGS = re.findall(r"(?m)^## (\w+)$", RUNBOOK.read_text(encoding="utf-8"))


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("promtool") is None:
        if os.environ.get("CI"):
            pytest.fail("promtool is not installed (Debian package prometheus)")
        pytest.skip("promtool is not installed")
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)


def test_prometheus_accepts_the_rules() -> None:
    result = promtool("check", "rules", *sorted(RULES.glob("*.yaml")))
    assert result.returncode == 0, result.stdout + result.stderr


def test_prometheus_accepts_its_configuration() -> None:
    result = promtool("check", "config", "--syntax-only", REPOSITORY / "deploy" / "prometheus.yml")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", RULES_TESTS, ids=lambda path: path.stem)
def test_rules_behave_as_their_unit_tests_say(path: Path) -> None:
    result = promtool("test", "rules", path)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_is_tested_to_fire_and_not_to_fire() -> None:
    seen: dict[str, set[bool]] = defaultdict(set)
    for path in RULES_TESTS:
        for case in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            for check in case["alert_rule_test"]:
                seen[check["alertname"]].add(bool(check["exp_alerts"]))
    assert seen == {name: {True, False} for name in ALERTS}


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_has_a_severity_and_a_description(name: str) -> None:
    alert: dict[str, Any] = ALERTS[name]
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_links_to_its_section_of_the_runbook(name: str) -> None:
    assert ALERTS[name]["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
    section = RUNBOOK.read_text(encoding="utf-8").partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    assert section.lstrip().startswith(f"*{ALERTS[name]['labels']['severity']}: ")
    assert "Look" in section


def test_the_runbook_has_no_section_of_an_unknown_alert() -> None:
    assert sorted(HEADINGS) == sorted(ALERTS)


def test_links_within_the_runbook_are_valid() -> None:
    links = re.findall(r"\]\(#(\w+)\)", RUNBOOK.read_text(encoding="utf-8"))
    assert set(links) <= {heading.lower() for heading in HEADINGS}


def test_recorded_names_follow_the_convention_and_are_unique() -> None:
    names = [rule["record"] for rule in read_rules() if "record" in rule]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z_]+:kotae_[a-z_]+:[a-z0-9_]+", name) for name in names)


def test_the_objectives_count_the_task_routes_and_no_others() -> None:
    patterns = {pattern for rule in read_rules() for pattern in re.findall(r'route=~"([^"]*)"', rule["expr"])}
    (pattern,) = patterns
    tasks = [f"/v1/{task}" for task in TASKS]
    tasks += [
        "/v1/speech-recognition",
        "/v1/embeddings",
        "/v1/audio/transcriptions",
        "/v2/models/{name}/infer",
    ]
    others = [
        "/v1/models",
        "/v1/models/{model_id:path}",
        "/healthz",
        "/readyz",
        "/metrics",
        "/docs",
        "unmatched",
    ]
    assert [route for route in (*tasks, *others) if re.fullmatch(pattern, route)] == tasks


def test_the_runbook_names_only_settings_that_exist() -> None:
    texts = [RUNBOOK, *RULES.glob("*.yaml")]
    named = {
        name for path in texts for name in re.findall(r"KOTAE_([A-Z_]+)", path.read_text(encoding="utf-8"))
    }
    assert {name.lower() for name in named} <= Settings.model_fields.keys()


def test_the_runbook_names_only_panels_that_exist() -> None:
    titles = {
        panel["title"] for path in DASHBOARDS.glob("*.json") for panel in panels_of(read_dashboard(path))
    }
    lines = re.findall(r"(?m)^(?:Look|-|\S.*\*).*$", RUNBOOK.read_text(encoding="utf-8"))
    named = {name for line in lines for name in re.findall(r"(?<!\*)\*([A-Z][a-z ]+)\*", line)}
    assert named
    assert {name for name in named if not any(title.startswith(name) for title in titles)} == set()
