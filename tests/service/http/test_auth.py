from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.errors import StartFailed
from service.http.auth import Keys, add_key, needed_scope, open_keys
from service.settings import Settings
from tests.service.http.conftest import Start
from tests.tiny_models import picture

ROUTE = "/v1/image-classification"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.yaml"


@pytest.fixture(scope="module")
def keys(file: Path) -> dict[str, str]:
    return {scope: add_key(file, f"the {scope} one", (scope,)) for scope in ("infer", "admin", "metrics")}


@pytest.fixture(scope="module")
def guarded(start: Start, file: Path, keys: dict[str, str]) -> Iterator[TestClient]:
    with start(auth="required", keys_file=file, heartbeat_seconds=0.05) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_a_known_key_with_the_scope_is_let_in(guarded: TestClient, keys: dict[str, str]) -> None:
    assert guarded.post(ROUTE, content=picture(1), headers=bearer(keys["infer"])).status_code == 200
    assert guarded.post(ROUTE, content=picture(1), headers={"x-api-key": keys["infer"]}).status_code == 200
    assert guarded.get("/v1/models", headers=bearer(keys["infer"])).status_code == 200
    assert guarded.get("/metrics", headers=bearer(keys["metrics"])).status_code == 200
    assert guarded.get("/admin/log-level", headers=bearer(keys["admin"])).status_code == 200


@pytest.mark.parametrize(
    "headers", [{}, bearer("kotae_wrong"), {"authorization": "Basic abc"}, {"x-api-key": ""}]
)
def test_a_missing_or_wrong_key_is_401_in_the_designed_shape(guarded: TestClient, headers: Any) -> None:
    for path in (ROUTE, "/v1/models", "/metrics", "/admin/log-level", "/v1/unknown"):
        response = guarded.request("POST" if path == ROUTE else "GET", path, headers=headers)
        assert response.status_code == 401
        error = response.json()["error"]
        assert (error["type"], error["code"]) == ("authentication_error", "unauthorized")
        assert error["request_id"] == response.headers["x-request-id"]
        assert response.headers["www-authenticate"] == "Bearer"


def test_a_key_without_the_scope_is_403(guarded: TestClient, keys: dict[str, str]) -> None:
    for scope, path in (("metrics", "/v1/models"), ("infer", "/metrics"), ("infer", "/admin/log-level")):
        response = guarded.get(path, headers=bearer(keys[scope]))
        assert response.status_code == 403
        error = response.json()["error"]
        assert (error["type"], error["code"]) == ("authentication_error", "forbidden")


def test_probes_and_documentation_never_need_a_key(guarded: TestClient) -> None:
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json", "/docs/assets/swagger-ui.css"):
        assert guarded.get(path).status_code == 200


def test_only_probes_and_documentation_are_open() -> None:
    assert needed_scope("/docs/assetsx") == "infer"
    assert needed_scope("/v1/image-classification") == "infer"
    assert needed_scope("/metrics/") == "infer"
    assert needed_scope("/admin") == needed_scope("/admin/x") == "admin"
    assert needed_scope("/adminx") == "infer"


def test_the_file_is_read_again_when_it_changes(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    old = add_key(file, "old", ("infer",))
    keys = Keys(file)
    file.unlink()
    new = add_key(file, "new", ("infer",))
    os.utime(file, ns=(1, 1))
    keys.reload_if_changed()
    assert keys.find(old) is None
    found = keys.find(new)
    assert found is not None and found.name == "new"
    file.write_text("keys: [{name: x}]")
    keys.reload_if_changed()
    assert keys.find(new) is not None, "a broken file leaves the keys in force"
    file.unlink()
    keys.reload_if_changed()
    assert keys.find(new) is not None, "so does a missing one"


def test_a_running_server_takes_a_new_key_without_restart(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    add_key(file, "first", ("infer",))
    with start(auth="required", keys_file=file, heartbeat_seconds=0.01) as client:
        second = add_key(file, "second", ("infer",))
        for _ in range(2000):
            if client.get("/v1/models", headers=bearer(second)).status_code == 200:
                return
        raise AssertionError("the new key was never let in")


def test_keys_are_hashed_at_rest_and_never_logged(
    guarded: TestClient, keys: dict[str, str], file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG"):
        guarded.get("/v1/models", headers=bearer(keys["infer"]))
    assert any(getattr(record, "key", None) == "the infer one" for record in caplog.records)
    for key in keys.values():
        assert key not in file.read_text()
        assert key not in str([vars(record) for record in caplog.records])
    assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("host", "auth", "needed"),
    [
        ("127.0.0.1", "auto", False),
        ("localhost", "auto", False),
        ("::1", "auto", False),
        ("0.0.0.0", "auto", True),
        ("kotae.example", "auto", True),
        ("0.0.0.0", "off", False),
        ("127.0.0.1", "required", True),
    ],
)
def test_keys_are_off_on_loopback_and_a_choice_elsewhere(host: str, auth: Any, needed: bool) -> None:
    settings = Settings(host=host, auth=auth)
    if needed:
        with pytest.raises(StartFailed, match="KOTAE_KEYS_FILE"):
            open_keys(settings)
    else:
        assert open_keys(settings) is None


@pytest.mark.parametrize("text", ["keys: 3", "key: []", "keys: [{name: a, hash: x, scopes: [infer]}]", "{"])
def test_a_wrong_keys_file_stops_the_start(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(text)
    with pytest.raises(StartFailed, match="keys file"):
        Keys(file)
    with pytest.raises(StartFailed, match="keys file"):
        add_key(file, "a", ("infer",))
    with pytest.raises(StartFailed, match="keys file"):
        add_key(tmp_path / "other.yaml", "a", ("everything",))


def test_the_log_level_changes_live(start: Start) -> None:
    import logging

    root = logging.getLogger()
    before = root.level
    try:
        with start() as client:
            assert client.put("/admin/log-level", json={"level": "error"}).json() == {"level": "error"}
            assert client.get("/admin/log-level").json() == {"level": "error"}
            assert root.level == logging.ERROR
            wrong = client.put("/admin/log-level", json={"level": "loud"})
            assert wrong.status_code == 422
            assert wrong.json()["error"]["code"] == "validation_error"
    finally:
        root.setLevel(before)


def test_operations_have_a_port_of_their_own_if_asked(repository: Path) -> None:
    import httpx

    from tests.end_to_end.server import serving

    with serving(repository, operations_port="0") as server:
        port = next(line for line in server.lines if "operations_port" in line)["operations_port"]
        main, operations = server.url, f"http://127.0.0.1:{port}"
        for path, where, elsewhere in (
            ("/metrics", operations, main),
            ("/admin/log-level", operations, main),
            ("/v1/models", main, operations),
            ("/docs", main, operations),
        ):
            assert httpx.get(where + path).status_code == 200
            refused = httpx.get(elsewhere + path)
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")
        for url in (main, operations):
            assert httpx.get(url + "/healthz").status_code == httpx.get(url + "/readyz").status_code == 200
