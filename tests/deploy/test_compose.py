"""compose.yaml mounts existing files, publishes on loopback only, and allows for the drain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import PREFIX, Settings
from tests.deploy.helm import ROOT

SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]


def mounts(service: str) -> dict[str, Path]:
    """Return the mounted files and folders of this checkout by their path in the container."""
    pairs = [entry.split(":") for entry in SERVICES[service]["volumes"]]
    return {pair[1]: ROOT / pair[0] for pair in pairs if pair[0].startswith(".")}


@pytest.mark.parametrize("service", SERVICES)
def test_every_mounted_path_exists_and_is_read_only(service: str) -> None:
    assert all(path.exists() for path in mounts(service).values())
    assert all(entry.endswith(":ro") for entry in SERVICES[service]["volumes"] if entry.startswith("."))


@pytest.mark.parametrize("service", SERVICES)
def test_ports_are_published_on_loopback_only(service: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[service]["ports"])


def test_the_service_is_confined_and_set_up_with_names_that_it_knows() -> None:
    service = SERVICES["kotae"]
    assert service["environment"] == {"KOTAE_AUTH": "off"}
    assert {PREFIX + name.upper() for name in Settings.model_fields} >= service["environment"].keys()
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["tmpfs"][0].startswith("/tmp:")


def test_the_service_is_killed_only_after_its_drain() -> None:
    grace = float(SERVICES["kotae"]["stop_grace_period"].removesuffix("s"))
    settings = Settings()
    assert grace >= settings.drain_grace_seconds + settings.drain_limit_seconds + 5


def test_prometheus_reads_our_rules_and_scrapes_the_service() -> None:
    config = yaml.safe_load(mounts("prometheus")["/etc/prometheus/prometheus.yml"].read_text())
    folder = next(
        target for target, path in mounts("prometheus").items() if path == ROOT / "helm/kotae/rules"
    )
    assert all(str(Path(pattern).parent) == folder for pattern in config["rule_files"])
    targets = [
        target
        for job in config["scrape_configs"]
        for group in job["static_configs"]
        for target in group["targets"]
    ]
    assert "kotae:8080" in targets


def test_grafana_is_provisioned_with_our_prometheus_and_dashboards() -> None:
    provisioning = mounts("grafana")["/etc/grafana/provisioning"]
    sources = [yaml.safe_load(path.read_text()) for path in (provisioning / "datasources").glob("*.y*ml")]
    assert [source["url"] for document in sources for source in document["datasources"]] == [
        "http://prometheus:9090"
    ]
    providers = [yaml.safe_load(path.read_text()) for path in (provisioning / "dashboards").glob("*.y*ml")]
    folders = [provider["options"]["path"] for document in providers for provider in document["providers"]]
    assert folders == [
        target for target, path in mounts("grafana").items() if path == ROOT / "helm/kotae/dashboards"
    ]
