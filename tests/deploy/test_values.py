"""values.yaml, its schema, the table in the README and the code agree."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import yaml

from service.settings import RENAMED, Settings
from tests.deploy.helm import CHART, ROOT
from tests.deploy.values_table import read_values, table, table_in_readme

# Set from values of their own, so that the chart cannot contradict itself.
CHART_OWNS = {
    "auth",
    "device",
    "drain_grace_seconds",
    "drain_limit_seconds",
    "gpu_provider",
    "keys_file",
    "models",
    "operations_port",
    "port",
    "tensorrt_cache",
}


def schema() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    return document


def test_the_chart_installs_the_version_of_this_checkout() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == version


def test_every_value_has_a_comment_above_it() -> None:
    assert [value.path for value in read_values() if not value.comment] == []


def test_the_readme_has_every_value() -> None:
    assert table_in_readme() == table(), "python -m tests.deploy.values_table writes it"


def test_the_schema_knows_exactly_the_values() -> None:
    def keys(value: Any, rule: dict[str, Any], path: str = "") -> None:
        if not isinstance(value, dict) or "properties" not in rule or path == ".settings":
            return
        optional = (
            {"global"} if not path else {"initialDelaySeconds"} if path.startswith(".probes.") else set()
        )
        assert value.keys() == rule["properties"].keys() - optional, path
        assert rule["additionalProperties"] is False, path
        for name, inner in value.items():
            keys(inner, rule["properties"][name], f"{path}.{name}")

    keys(yaml.safe_load((CHART / "values.yaml").read_text()), schema())


def test_the_schema_lists_the_settings_of_the_service_that_the_chart_does_not_own() -> None:
    listed = schema()["properties"]["settings"]["propertyNames"]["enum"]
    assert sorted(listed) == sorted((Settings.model_fields.keys() | RENAMED.keys()) - CHART_OWNS)


def test_the_chart_stays_small_enough_to_read() -> None:
    def lines(path: Any) -> int:
        return len(path.read_text().splitlines())

    assert lines(CHART / "values.yaml") < 150
    assert all(lines(path) < 120 for path in (CHART / "templates").rglob("*.*"))
