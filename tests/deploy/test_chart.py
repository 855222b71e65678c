"""The rendered chart: valid for Kubernetes, consistent with the code; contradicting values are rejected."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import yaml

from service.app import create_app
from service.http.auth import add_key
from service.settings import Settings, load_settings
from tests.deploy.engineless import wait_until_ready
from tests.deploy.helm import CHART, ROOT, Manifest, Rendered, RenderFailed, lint, render, require

KEYS = {"mode": "required", "existingSecret": "keys", "clientSecret": "client"}
EVERYTHING: Manifest = {
    "image": {"repository": "registry.example.com/kotae", "tag": "1.2.3", "pullSecrets": [{"name": "pull"}]},
    "settings": {"log_level": "debug", "max_body_bytes": 33554432, "batch_limit_seconds": 0.5},
    "auth": KEYS,
    "operationsPort": 9090,
    "models": {"source": "pvc", "pvc": {"accessModes": ["ReadWriteMany"], "storageClassName": "nfs"}},
    "service": {"annotations": {"note": "x"}},
    "serviceAccount": {"annotations": {"note": "x"}},
    "ingress": {
        "enabled": True,
        "className": "nginx",
        "annotations": {"note": "x"},
        "hosts": ["kotae.example.com"],
        "tls": [{"hosts": ["kotae.example.com"], "secretName": "tls"}],
    },
    "networkPolicy": {
        "enabled": True,
        "from": [{"podSelector": {}}],
        "operationsFrom": [{"namespaceSelector": {}}],
        "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}],
    },
    "podDisruptionBudget": {"enabled": True, "maxUnavailable": "25%"},
    "monitor": {"kind": "service", "keySecret": "metrics", "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    "dashboards": {"enabled": True},
    "podLabels": {"team": "x"},
    "podAnnotations": {"note": "x"},
    "extraEnv": [{"name": "OMP_NUM_THREADS", "value": "1"}],
    "priorityClassName": "high",
    "runtimeClassName": "nvidia",
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "topologySpread": "DoNotSchedule",
    "replicaCount": 3,
}
SCENARIOS: dict[str, Manifest] = {
    "defaults": {},
    "everything": EVERYTHING,
    "everything, hpa on CPU": {**EVERYTHING, "autoscaling": {"kind": "hpa", "metric": "cpu"}},
    "everything, hpa on our metrics": {**EVERYTHING, "autoscaling": {"kind": "hpa", "metric": "custom"}},
    "everything, keda": {
        **EVERYTHING,
        "autoscaling": {"kind": "keda", "prometheusAddress": "http://prometheus:9090"},
    },
    "pod monitor without keys": {"monitor": {"kind": "pod"}, "auth": {"mode": False}},
    "models from an init container": {
        "models": {"source": "initContainer", "initContainer": {"image": "m:1", "envFromSecret": "s3"}}
    },
    "values-gpu.yaml": yaml.safe_load((CHART / "values-gpu.yaml").read_text()),
    "values-production.yaml": yaml.safe_load((CHART / "values-production.yaml").read_text()),
}
CUSTOM = {
    "ScaledObject",
    "ServiceMonitor",
    "PodMonitor",
    "PrometheusRule",
}  # definitions of their own, checked below
SNAPSHOT = Path(__file__).parent / "default_render.yaml"


@pytest.fixture(autouse=True)
def _helm() -> None:
    require("helm_sdkpy")


@cache
def rendered(scenario: str) -> Rendered:
    return render(SCENARIOS[scenario])


def pod_of(result: Rendered) -> Manifest:
    pod: Manifest = result.one("Deployment")["spec"]["template"]["spec"]
    return pod


def test_helm_lint_finds_nothing() -> None:
    assert lint() == []


def test_the_default_render_is_the_committed_one() -> None:
    result = rendered("defaults")
    text = yaml.safe_dump_all([*result.objects, *result.hooks], sort_keys=False)
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOT.write_text(text)
    assert text == SNAPSHOT.read_text(), "if the change is meant: UPDATE_SNAPSHOTS=1 pytest tests/deploy"


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("version", ["1.27", "1.34"])
def test_every_object_is_valid_for_the_oldest_and_a_new_kubernetes(scenario: str, version: str) -> None:
    require("kubernetes_validate")
    result = rendered(scenario)
    for item in (*result.objects, *result.hooks):
        if item["kind"] not in CUSTOM:
            _validate(json.dumps(item), version)


@cache  # scenarios share most of their objects
def _validate(item: str, version: str) -> None:
    import kubernetes_validate

    kubernetes_validate.validate(json.loads(item), version, strict=True)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_objects_of_operators_have_only_fields_that_their_definitions_know(scenario: str) -> None:
    for item in rendered(scenario).objects:
        spec = item.get("spec", {})
        match item["kind"]:
            case "ScaledObject":
                assert spec.keys() == {"scaleTargetRef", "minReplicaCount", "maxReplicaCount", "triggers"}
                for trigger in spec["triggers"]:
                    assert trigger.keys() == {"type", "name", "metricType", "metadata"}
                    assert all(isinstance(value, str) for value in trigger["metadata"].values())
            case "ServiceMonitor" | "PodMonitor":
                name = "endpoints" if item["kind"] == "ServiceMonitor" else "podMetricsEndpoints"
                assert spec.keys() == {"selector", name}
                assert all(one.keys() <= {"port", "path", "interval", "authorization"} for one in spec[name])
            case "PrometheusRule":
                for group in spec["groups"]:
                    assert group.keys() <= {"name", "interval", "limit", "query_offset", "labels", "rules"}
                    for rule in group["rules"]:
                        texts = {**rule.get("labels", {}), **rule.get("annotations", {})}
                        assert all(isinstance(value, str) for value in texts.values())
                        assert ("record" in rule) != ("alert" in rule)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_environment_is_one_the_service_starts_with(
    scenario: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = rendered(scenario).settings()
    for name in [name for name in os.environ if name.startswith("KOTAE_")]:
        monkeypatch.delenv(name)
    for name, value in data.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert str(settings.port) == data["KOTAE_PORT"]
    for name, value in SCENARIOS[scenario].get("settings", {}).items():
        assert getattr(settings, name) == value


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_probes_and_ports_exist_in_the_app(scenario: str, tmp_path: Path) -> None:
    result = rendered(scenario)
    (container,) = pod_of(result)["containers"]
    data = result.settings()
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    wanted = {"http": int(data["KOTAE_PORT"])}
    if "KOTAE_OPERATIONS_PORT" in data:
        wanted["operations"] = int(data["KOTAE_OPERATIONS_PORT"])
    assert ports == wanted
    paths = set(create_app(Settings(models=tmp_path)).openapi()["paths"])
    for probe, path in (("startup", "/readyz"), ("liveness", "/healthz"), ("readiness", "/readyz")):
        assert container[f"{probe}Probe"]["httpGet"] == {"path": path, "port": "http"}
        assert path in paths
    assert {port["targetPort"] for port in result.one("Service")["spec"]["ports"]} == ports.keys()
    for monitor in (item for item in result.objects if item["kind"].endswith("Monitor")):
        endpoints = monitor["spec"].get("endpoints") or monitor["spec"]["podMetricsEndpoints"]
        for endpoint in endpoints:
            assert endpoint["port"] in ports
            assert endpoint["path"] in paths


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_selector_has_name_and_instance_and_matches_the_pods_and_not_the_test(scenario: str) -> None:
    result = rendered(scenario)
    pods = result.one("Deployment")["spec"]["template"]["metadata"]["labels"].items()
    tests = [hook["metadata"]["labels"].items() for hook in result.hooks]
    selectors = [
        result.one("Deployment")["spec"]["selector"]["matchLabels"],
        result.one("Service")["spec"]["selector"],
    ]
    for item in result.objects:
        match item["kind"]:
            case "PodDisruptionBudget" | "PodMonitor":
                selectors.append(item["spec"]["selector"]["matchLabels"])
            case "NetworkPolicy":
                selectors.append(item["spec"]["podSelector"]["matchLabels"])
    selectors += [
        item["labelSelector"]["matchLabels"] for item in pod_of(result).get("topologySpreadConstraints", ())
    ]
    for selector in selectors:
        assert {"app.kubernetes.io/name", "app.kubernetes.io/instance"} <= selector.keys()
        assert selector.items() <= pods
        assert not any(selector.items() <= labels for labels in tests)


def test_a_service_monitor_selects_the_service() -> None:
    result = rendered("everything")
    wanted = result.one("ServiceMonitor")["spec"]["selector"]["matchLabels"].items()
    assert wanted <= result.one("Service")["metadata"]["labels"].items()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_pods_are_confined_and_killed_only_after_the_drain(scenario: str) -> None:
    result = rendered(scenario)
    data = result.settings()
    drain = float(data["KOTAE_DRAIN_GRACE_SECONDS"]) + float(data["KOTAE_DRAIN_LIMIT_SECONDS"])
    assert pod_of(result)["terminationGracePeriodSeconds"] >= drain + 5  # the server flushes for 3.25 s more
    for pod in (pod_of(result), *(hook["spec"] for hook in result.hooks)):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["enableServiceLinks"] is False
        assert pod["automountServiceAccountToken"] is False
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "preStop" not in str(container)


def test_nothing_optional_is_made_by_default() -> None:
    result = rendered("defaults")
    assert result.kinds() == ["ConfigMap", "Deployment", "Service", "ServiceAccount"]
    assert [hook["kind"] for hook in result.hooks] == ["Pod"]


@pytest.mark.parametrize(
    ("values", "added"),
    [
        ({"serviceAccount": {"create": False}}, {"ServiceAccount": -1}),
        ({"networkPolicy": {"enabled": True}}, {"NetworkPolicy": 1}),
        ({"podDisruptionBudget": {"enabled": True}, "replicaCount": 2}, {"PodDisruptionBudget": 1}),
        ({"autoscaling": {"kind": "hpa"}}, {"HorizontalPodAutoscaler": 1}),
        (SCENARIOS["pod monitor without keys"], {"PodMonitor": 1}),
        ({"models": {"source": "pvc"}}, {"PersistentVolumeClaim": 1}),
        ({"models": {"source": "pvc", "pvc": {"existingClaim": "mine"}}}, {}),
        ({"test": {"enabled": False}}, {"hook": -1}),
        ({"auth": {"mode": "required", "existingSecret": "keys"}}, {"hook": -1}),
    ],
)
def test_a_switch_makes_its_own_object_and_no_other(values: Manifest, added: dict[str, int]) -> None:
    def count(result: Rendered) -> dict[str, int]:
        kinds = [*result.kinds(), *("hook" for _ in result.hooks)]
        return {kind: kinds.count(kind) for kind in kinds}

    before, after = count(rendered("defaults")), count(render(values))
    change = {kind: after.get(kind, 0) - before.get(kind, 0) for kind in before.keys() | after.keys()}
    assert {kind: number for kind, number in change.items() if number} == added


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"auth": {"mode": "required"}}, "needs auth.existingSecret"),
        ({"auth": {"mode": "maybe"}}, "/auth/mode"),
        ({"auth": {"existingSecret": "keys"}}, "no effect with auth.mode"),
        ({"ingress": {"enabled": True, "hosts": ["x"]}}, "opens the models to everybody"),
        ({"ingress": {"enabled": True}, "auth": KEYS}, "needs ingress.hosts"),
        ({"monitor": {"kind": "service"}, "auth": KEYS}, "needs monitor.keySecret"),
        ({"monitor": {"keySecret": "x"}}, "monitor.keySecret has no effect"),
        ({"operationsPort": 8080}, "is the main port"),
        ({"operationsPort": 80}, "must differ"),
        ({"operationsPort": 70000}, "/operationsPort"),
        ({"models": {"source": "initContainer"}}, "needs models.initContainer.image"),
        ({"models": {"source": "s3"}}, "/models/source"),
        ({"models": {"pvc": {"existingClaim": "x"}}}, "no effect unless models.source: pvc"),
        ({"models": {"source": "pvc"}, "replicaCount": 2}, "needs ReadWriteMany"),
        (
            {"autoscaling": {"kind": "hpa", "minReplicas": 9, "maxReplicas": 3}},
            "more than autoscaling.maxReplicas",
        ),
        (
            {"autoscaling": {"kind": "hpa"}, "resources": {"requests": {"cpu": None}}},
            "resources.requests.cpu",
        ),
        ({"autoscaling": {"kind": "keda"}}, "needs autoscaling.prometheusAddress"),
        ({"autoscaling": {"kind": "vpa"}}, "/autoscaling/kind"),
        ({"podDisruptionBudget": {"enabled": True}}, "protects nothing"),
        ({"rollingUpdate": {"maxSurge": 0}}, "cannot both be 0"),
        (
            {"monitor": {"kind": "pod"}, "networkPolicy": {"enabled": True, "from": [{"podSelector": {}}]}},
            "keeps Prometheus out",
        ),
        ({"settings": {"log_levle": "debug"}}, "log_levle"),
        ({"settings": {"port": 1}}, "port"),
        ({"replicas": 2}, "replicas"),
        ({"image": {"tag": "latest"}}, "/image/tag"),
        ({"drain": {"marginSeconds": 0}}, "/drain/marginSeconds"),
    ],
)
def test_wrong_or_conflicting_values_stop_the_render_with_a_message(values: Manifest, message: str) -> None:
    with pytest.raises(RenderFailed, match=message):
        render(values)


def test_an_open_ingress_must_be_asked_for_and_is_warned_about() -> None:
    result = render({"ingress": {"enabled": True, "hosts": ["x"]}, "auth": {"allowOpenIngress": True}})
    assert result.one("Ingress")["spec"]["rules"][0]["host"] == "x"
    assert "WARNING" in result.notes


def test_the_notes_say_what_to_do_next() -> None:
    assert "rollout status deployment/demo-kotae" in rendered("defaults").notes
    assert "helm -n models test demo" in rendered("defaults").notes
    assert 'WARNING: auth.mode is "off"' in rendered("defaults").notes
    assert "https://kotae.example.com/v1/models" in rendered("everything").notes
    assert "WARNING" not in rendered("everything").notes
    assert "demo-kotae-models begins empty" in rendered("everything").notes
    assert "empty" not in rendered("defaults").notes


def test_keys_are_mounted_as_a_folder_so_that_updates_arrive() -> None:
    result = rendered("everything")
    (container,) = pod_of(result)["containers"]
    (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] == "keys")
    assert "subPath" not in mount
    assert result.settings()["KOTAE_KEYS_FILE"] == mount["mountPath"] + "/keys.yaml"
    assert "keys" not in str(pod_of(rendered("defaults"))["volumes"])


def test_a_changed_setting_rolls_the_pods() -> None:
    def checksum(result: Rendered) -> str:
        annotations = result.one("Deployment")["spec"]["template"]["metadata"]["annotations"]
        return str(annotations["checksum/config"])

    assert checksum(rendered("defaults")) != checksum(render({"settings": {"log_level": "debug"}}))


def test_the_autoscaler_owns_the_number_of_pods() -> None:
    assert rendered("defaults").one("Deployment")["spec"]["replicas"] == 1
    for scenario in ("everything, hpa on CPU", "everything, hpa on our metrics", "everything, keda"):
        assert "replicas" not in rendered(scenario).one("Deployment")["spec"]


def test_a_gpu_pod_asks_for_the_gpu_and_never_falls_back() -> None:
    result = rendered("values-gpu.yaml")
    (container,) = pod_of(result)["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 1, "cpu": "4", "memory": "8Gi"}
    assert container["image"].endswith("-gpu")
    assert result.settings()["KOTAE_DEVICE"] == "cuda"


def test_tensorrt_keeps_its_engines_in_a_volume_of_their_own() -> None:
    gpu = {"enabled": True, "provider": "tensorrt"}
    result = render({"gpu": gpu})
    (container,) = pod_of(result)["containers"]
    assert container["image"].endswith("-tensorrt")
    folder = result.settings()["KOTAE_TENSORRT_CACHE"]
    assert result.settings()["KOTAE_GPU_PROVIDER"] == "tensorrt"
    assert {"name": "engines", "mountPath": folder} in container["volumeMounts"]
    assert {"name": "engines", "emptyDir": {}} in pod_of(result)["volumes"]
    kept = render({"gpu": {**gpu, "enginesClaim": "engines-a"}})
    claim = {"name": "engines", "persistentVolumeClaim": {"claimName": "engines-a"}}
    assert claim in pod_of(kept)["volumes"]
    assert "engines" not in str(pod_of(rendered("values-gpu.yaml")))


def test_rules_and_dashboards_are_the_files_of_the_chart() -> None:
    result = rendered("everything")
    groups = [
        group
        for path in sorted((CHART / "rules").glob("*.yaml"))
        for group in yaml.safe_load(path.read_text())["groups"]
    ]
    assert result.one("PrometheusRule")["spec"]["groups"] == groups
    boards = [
        item["data"]
        for item in result.objects
        if item["kind"] == "ConfigMap" and item["metadata"]["labels"].get("grafana_dashboard") == "1"
    ]
    files = sorted((CHART / "dashboards").glob("*.json"))
    assert boards == [{f"kotae-{path.name}": path.read_text()} for path in files]


@contextmanager
def serving(folder: Path, **settings: str) -> Iterator[str]:
    """Start the service with the shipped models; give its address."""
    log = folder / "log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KOTAE_")}
    command = [sys.executable, "-m", "service", "serve", "--port", "0"]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**environment, **settings}, cwd=ROOT
        )
    try:
        end = time.monotonic() + 60
        while not (found := re.search(r"listening on (http://[^\s\"]+)", log.read_text())):
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        wait_until_ready(found[1])
        yield found[1]
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("server")) as address:
        yield address


def run_the_test_pod(result: Rendered, server: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run what `helm test` runs, against a server of this machine."""
    (hook,) = result.hooks
    (container,) = hook["spec"]["containers"]
    environment = {item["name"]: item.get("value", "") for item in container["env"]}
    environment["URL"] = environment["URL"].replace("http://demo-kotae:80", server)
    _, *arguments = container["command"]
    return subprocess.run(
        [sys.executable, *arguments],
        env={**environment, **changes},
        capture_output=True,
        text=True,
        check=False,
    )


def test_helm_test_makes_a_real_prediction_and_sees_a_wrong_one(server: str) -> None:
    result = rendered("defaults")
    assert result.hooks[0]["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert result.hooks[0]["spec"]["containers"][0]["image"] == pod_of(result)["containers"][0]["image"]
    right = run_the_test_pod(result, server)
    assert right.returncode == 0, right.stderr
    assert '"label": "4"' in right.stdout
    assert "expected 5" in run_the_test_pod(result, server, LABEL="5").stderr
    assert "404" in run_the_test_pod(result, server, URL=f"{server}/v1/nothing").stderr


def test_helm_test_brings_its_key_where_keys_are_required(tmp_path: Path) -> None:
    result, keys = rendered("everything"), tmp_path / "keys.yaml"
    secret = add_key(keys, "helm-test", ("infer",))
    with serving(tmp_path, KOTAE_AUTH="required", KOTAE_KEYS_FILE=str(keys)) as server:
        assert run_the_test_pod(result, server, KEY=secret + "\n").returncode == 0
        assert "401" in run_the_test_pod(result, server, KEY="wrong").stderr


def test_autoscaling_asks_for_metrics_that_exist(server: str) -> None:
    with urllib.request.urlopen(f"{server}/metrics") as response:
        known = set(re.findall(r"^# TYPE (\S+)", response.read().decode(), re.MULTILINE))
    triggers = rendered("everything, keda").one("ScaledObject")["spec"]["triggers"]
    readme = (CHART / "README.md").read_text()
    for name in ("kotae_utilization_ratio", "kotae_queue_predicted_wait_seconds"):
        assert name in known
        assert any(f"{name}{{" in trigger["metadata"]["query"] for trigger in triggers)
        assert f"seriesQuery: {name}{{" in readme
    adapter = yaml.safe_load((CHART / "values.yaml").read_text())["autoscaling"]["adapterMetrics"]
    asked = rendered("everything, hpa on our metrics").one("HorizontalPodAutoscaler")["spec"]["metrics"]
    assert [metric["pods"]["metric"]["name"] for metric in asked] == list(adapter.values())
