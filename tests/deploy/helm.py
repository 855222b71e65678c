"""Renders the chart with Helm's own engine, without a cluster: `helm-sdkpy` carries Helm as a library.

The library can only install, so it installs into a stand-in for the Kubernetes API that accepts
everything. What Helm rendered is then read from the release record that it stores there.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import os
import re
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm/kotae"
RELEASE = "demo"
NAMESPACE = "models"

# What discovery must know, or Helm refuses to send it; a trailing number is the API's version.
_KINDS = {
    "v1": "ConfigMap PersistentVolumeClaim Pod Secret Service ServiceAccount",
    "apps/v1": "Deployment",
    "autoscaling/v2": "HorizontalPodAutoscaler",
    "keda.sh/v1alpha1": "ScaledObject",
    "monitoring.coreos.com/v1": "PodMonitor PrometheusRule ServiceMonitor",
    "networking.k8s.io/v1": "Ingress NetworkPolicy",
    "policy/v1": "PodDisruptionBudget",
}

Manifest = dict[str, Any]


class RenderFailed(Exception):
    """Helm refused; the message is Helm's."""


@dataclass(frozen=True)
class Rendered:
    """What Helm made of the chart: objects of the release, of its hooks, and the notes."""

    objects: list[Manifest]
    hooks: list[Manifest]
    notes: str

    def kinds(self) -> list[str]:
        """Name the kinds, sorted."""
        return sorted(item["kind"] for item in self.objects)

    def one(self, kind: str) -> Manifest:
        """Give the only object of a kind."""
        (found,) = (item for item in self.objects if item["kind"] == kind)
        return found

    def settings(self) -> dict[str, str]:
        """Give the environment of the service; dashboards are ConfigMaps too."""
        name = self.one("Deployment")["metadata"]["name"]
        (found,) = (
            item["data"]
            for item in self.objects
            if item["kind"] == "ConfigMap" and item["metadata"]["name"] == name
        )
        return dict(found)


def require(*modules: str) -> None:
    """Skip where a tool of the chart's tests is missing; in CI, which installs them, fail instead."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        message = (
            f"needs {', '.join(missing)}: pip install --ignore-requires-python helm-sdkpy kubernetes-validate"
        )
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


def render(values: Manifest | None = None) -> Rendered:
    """Render the chart with values over its own.

    Raises:
        RenderFailed: The values break the schema or contradict each other, or a template is wrong.
    """
    import helm_sdkpy

    with ThreadingHTTPServer(("127.0.0.1", 0), _Cluster) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            configuration = helm_sdkpy.Configuration(NAMESPACE, _kubeconfig(server.server_port))
            asyncio.run(
                helm_sdkpy.Install(configuration).run(RELEASE, str(CHART), values=values or {}, wait=False)
            )
        except helm_sdkpy.InstallError as error:
            raise RenderFailed(str(error)) from error
        finally:
            server.shutdown()
    release = _Cluster.release
    return Rendered(
        objects=_documents(release["manifest"]),
        hooks=[item for hook in release.get("hooks") or () for item in _documents(hook["manifest"])],
        notes=release["info"].get("notes", ""),
    )


def lint() -> list[str]:
    """Run `helm lint`; give its errors and warnings."""
    import helm_sdkpy

    found = asyncio.run(helm_sdkpy.Lint(helm_sdkpy.Configuration(NAMESPACE, _kubeconfig(9))).run(str(CHART)))
    messages = [message["Err"] for message in found["Messages"] or () if message["Severity"] > 1]
    return [str(problem) for problem in (*(found["Errors"] or ()), *messages)]


def _documents(text: str) -> list[Manifest]:
    return [item for item in yaml.safe_load_all(text) if item]


def _kubeconfig(port: int) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {}}],
        }
    )


class _Cluster(BaseHTTPRequestHandler):
    """Says yes to every write, knows nothing at every read, and keeps Helm's release record."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: else each answer waits for an acknowledgement
    release: Manifest = {}  # noqa: RUF012  # one render at a time

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        found = _discovery().get(path)
        missing = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "reason": "NotFound",
            "code": 404,
        }
        self._answer(json.dumps(found or missing).encode(), 200 if found else 404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kept = re.search(rb"H4sI[A-Za-z0-9+/=]+", body)  # the record: gzip in base64 inside a Secret
        if self.path.split("?")[0].endswith("/secrets") and kept:
            type(self).release = json.loads(gzip.decompress(base64.b64decode(kept[0])))
        self._answer(body, 201, self.headers["Content-Type"])

    do_PUT = do_POST
    do_PATCH = do_POST

    def _answer(self, body: bytes, status: int, media_type: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _discovery() -> dict[str, Manifest]:
    groups = [group_version.split("/") for group_version in _KINDS if "/" in group_version]
    answers: dict[str, Manifest] = {
        "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": [
                {
                    "name": group,
                    "versions": [{"groupVersion": f"{group}/{version}", "version": version}],
                    "preferredVersion": {"groupVersion": f"{group}/{version}", "version": version},
                }
                for group, version in groups
            ],
        },
    }
    for group_version, kinds in _KINDS.items():
        answers[f"/apis/{group_version}" if "/" in group_version else f"/api/{group_version}"] = {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": group_version,
            "resources": [
                {
                    "name": _plural(kind),
                    "singularName": kind.lower(),
                    "namespaced": True,
                    "kind": kind,
                    "verbs": ["create", "delete", "get", "list", "patch", "update"],
                }
                for kind in kinds.split()
            ],
        }
    return answers


def _plural(kind: str) -> str:
    name = kind.lower()
    if name.endswith("y"):
        return name[:-1] + "ies"
    return name + ("es" if name.endswith("s") else "s")
