"""The dashboards are well formed, query only existing metrics, and show data when the service runs."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.observability.queries import (
    DASHBOARDS,
    Query,
    label_names,
    metric_names,
    panel_queries,
    panels_of,
    read_dashboard,
    read_rules,
    rule_queries,
    selectors,
    substitute,
)
from service.telemetry.devices import DeviceState
from service.telemetry.metrics import Metrics, ModelState

PROVISIONING = Path(__file__).parents[2] / "deploy" / "grafana" / "provisioning"
DASHBOARD_PATHS = sorted(DASHBOARDS.glob("*.json"))
QUERIES = [*panel_queries(), *rule_queries()]
GRID_COLUMNS = 24

# What Prometheus itself adds.
SERVER_METRICS = {"up", "ALERTS"}
TARGET_LABELS = {"namespace", "job", "instance", "pod"}
SERVER_LABELS = {"alertname", "alertstate", "severity", "le"}


def watched_metrics() -> Metrics:
    """Metrics of a process in which every metric has a value."""
    metrics = Metrics()
    state = ModelState("m", "1", failed_check="golden", golden_check_error=0.0)
    metrics.watch(lambda: [state], lambda: [("cpu", False)], 1)
    metrics.watch_devices(lambda: [DeviceState("cuda:0", 0, 0, 0.0, 0.0, 0.0, 0)])
    metrics.model_added("m", "1")
    metrics.lane_added("cpu")
    metrics.heartbeat()
    return metrics


def known_metrics() -> set[str]:
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}
    families = watched_metrics().registry.collect()
    exposed = {family.name + suffix for family in families for suffix in suffixes[family.type]}
    recorded = {rule["record"] for rule in read_rules() if "record" in rule}
    return exposed | recorded | SERVER_METRICS


def panels(path: Path) -> list[dict[str, Any]]:
    return [panel for panel in panels_of(read_dashboard(path)) if panel["type"] != "row"]


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.owner)
def test_every_query_uses_existing_metrics(query: Query) -> None:
    names = metric_names(substitute(query.expression, "1m"))
    assert names
    assert names <= known_metrics()


def test_every_query_uses_existing_labels() -> None:
    metrics = watched_metrics()
    declared = {label for family in metrics.registry.collect() for s in family.samples for label in s.labels}
    declared |= {
        "kind",
        "model",
        "version",
        "route",
        "method",
        "status",
        "stage",
        "task",
        "device",
        "reason",
        "resource",
    }
    used = {label for query in QUERIES for label in label_names(query.expression)}
    assert used <= declared | TARGET_LABELS | SERVER_LABELS


def test_every_metric_is_on_a_dashboard_or_in_a_rule() -> None:
    families = {
        family.name for family in watched_metrics().registry.collect() if family.name.startswith("kotae")
    }
    asked = {name for query in QUERIES for name in metric_names(substitute(query.expression, "1m"))}
    unseen = {name for name in families if not any(asked_name.startswith(name) for asked_name in asked)}
    assert unseen == set()


@pytest.mark.parametrize("path", DASHBOARD_PATHS, ids=lambda path: path.stem)
def test_every_panel_has_a_title_a_description_a_unit_and_a_query(path: Path) -> None:
    for panel in panels(path):
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["targets"], panel["title"]
        assert panel["fieldConfig"]["defaults"].get("unit") or panel["options"]["yAxis"]["unit"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize("path", DASHBOARD_PATHS, ids=lambda path: path.stem)
def test_panels_do_not_overlap_or_leave_the_grid(path: Path) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels_of(read_dashboard(path)):
        grid = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < GRID_COLUMNS
        taken |= cells


@pytest.mark.parametrize("path", DASHBOARD_PATHS, ids=lambda path: path.stem)
def test_every_variable_that_a_query_uses_is_declared(path: Path) -> None:
    dashboard = read_dashboard(path)
    declared = {variable["name"] for variable in dashboard["templating"]["list"]} | {"__rate_interval"}
    used = {
        name
        for panel in panels(path)
        for target in panel["targets"]
        for name in re.findall(r"\$(\w+)", target["expr"])
    }
    assert used <= declared


def test_dashboards_have_fixed_and_different_names() -> None:
    dashboards = [read_dashboard(path) for path in DASHBOARD_PATHS]
    assert [dashboard["uid"] for dashboard in dashboards] == ["kotae-model", "kotae-service"]
    assert all("id" not in dashboard for dashboard in dashboards)


def test_dashboards_link_to_one_another() -> None:
    uids = {read_dashboard(path)["uid"] for path in DASHBOARD_PATHS}
    links = {link["url"] for path in DASHBOARD_PATHS for link in read_dashboard(path)["links"]}
    assert links == {f"/d/{uid}" for uid in uids}


@pytest.mark.parametrize("path", sorted(PROVISIONING.rglob("*.yaml")), ids=lambda path: path.stem)
def test_grafanas_provisioning_can_be_read(path: Path) -> None:
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["apiVersion"] == 1


def test_selectors_are_found_in_an_expression() -> None:
    expression = (
        'sum by (a, le) (rate(x_total{a=~"[{]b"}[5m] offset 1h)) / on (c) group_left () y:z:w > 0.5 and up'
    )
    assert selectors(expression) == ['x_total{a=~"[{]b"}', "y:z:w", "up"]
    assert label_names('sum by (a, b) (x{c="d=e",f!~"g"})') == {"a", "b", "c", "f"}


@pytest.mark.slow
def test_every_query_returns_data_from_a_service_under_load(tmp_path: Path) -> None:
    if shutil.which("prometheus") is None:
        if os.environ.get("CI"):
            pytest.fail("prometheus is not installed (Debian package prometheus)")
        pytest.skip("prometheus is not installed")
    from benchmarks.observability.__main__ import observed_run
    from benchmarks.observability.drawing import draw
    from benchmarks.observability.prometheus_api import exception_for, without_data

    with observed_run(tmp_path, seconds=30, replicas=1, shipped=None) as (server, statuses):
        assert {"200", "400", "404"} <= statuses.keys()
        assert server.broken_rules() == []
        empty = [f"{query.owner}: {part}" for query, part in without_data(server) if not exception_for(part)]
        assert empty == []
        for path in DASHBOARD_PATHS:
            draw(read_dashboard(path), server, tmp_path / f"{path.stem}.png")
            assert (tmp_path / f"{path.stem}.png").stat().st_size > 50_000
