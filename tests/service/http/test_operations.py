from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from service.engine.lane.lanes import Lanes
from tests.service.http.conftest import Start
from tests.tiny_models import make_model, picture

ROUTE = "/v1/image-classification"


def sample(client: TestClient, name: str, **labels: str) -> float:
    for line in client.get("/metrics").text.splitlines():
        if line.startswith(name + "{") and all(f'{k}="{v}"' in line for k, v in labels.items()):
            return float(line.rpartition(" ")[2])
    return 0.0


def test_probes_of_a_sound_server_are_green(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"live": True, "reasons": []}
    assert client.get("/readyz").json() == {"ready": True, "missing": []}


def test_head_goes_where_get_goes(client: TestClient) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/v1/models"):
        response = client.head(path)
        assert (response.status_code, response.content) == (200, b"")


def test_a_draining_server_is_not_ready_but_alive_answers_and_closes_connections(start: Start) -> None:
    with start() as client:
        client.app.state.lifecycle.draining = True  # type: ignore[attr-defined]
        assert client.get("/readyz").json()["missing"] == ["draining"]
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
        response = client.post(ROUTE, content=picture(1))
        assert response.status_code == 200
        assert response.headers["connection"] == "close"


def test_a_closed_server_refuses_work(start: Start) -> None:
    with start() as client:
        client.app.state.lifecycle.closed = True  # type: ignore[attr-defined]
        assert client.post(ROUTE, content=picture(1)).json()["error"]["code"] == "not_ready"


def test_optional_models_do_not_hold_back_readiness(tmp_path: Path, start: Start) -> None:
    make_model(tmp_path, "sound")
    broken = make_model(tmp_path, "broken", required=False)
    (broken / "model.onnx").write_bytes(b"junk")
    with start(tmp_path) as client:
        assert client.get("/readyz").status_code == 200


def test_an_empty_models_folder_is_alive_but_not_ready(tmp_path: Path, start: Start) -> None:
    with start(tmp_path) as client:
        assert client.get("/healthz").status_code == 200
        assert "has no models" in client.get("/readyz").json()["missing"][0]
        assert client.post(ROUTE, content=picture(1)).status_code == 404


def test_models_are_listed_in_openais_shape_with_our_facts(client: TestClient) -> None:
    listing = client.get("/v1/models").json()
    assert listing["object"] == "list"
    (entry,) = listing["data"]
    assert entry["id"] == "tiny" and entry["object"] == "model" and entry["created"] > 0
    assert entry["labels"] == ["zero", "one", "two", "three"]
    assert entry["versions"][0]["devices"] == ["cpu"]
    assert entry["versions"][0]["provider"] == "cpu"
    assert client.get("/v1/models/tiny").json() == entry
    assert client.get("/v1/models/nope").json()["error"]["code"] == "not_found"


def test_requests_are_counted_by_template_and_outcome(client: TestClient) -> None:
    def count(status: str) -> float:
        return sample(client, "kotae_requests_total", route=ROUTE, method="POST", status=status)

    ok, bad = count("200"), count("400")
    client.post(ROUTE, content=picture(1))
    client.post(ROUTE, content=b"junk")
    assert (count("200"), count("400")) == (ok + 1, bad + 1)


def test_failures_are_timed_and_stages_recorded(client: TestClient) -> None:
    def timed(stage: str) -> float:
        return sample(client, "kotae_stage_duration_seconds_count", stage=stage, model="tiny")

    before = {stage: timed(stage) for stage in ("decode", "queue", "batch", "infer", "encode")}
    client.post(ROUTE, content=picture(1))
    assert all(timed(stage) == value + 1 for stage, value in before.items())


def test_unknown_paths_and_methods_share_one_label_value(client: TestClient) -> None:
    client.get("/some/unknown/path")
    client.request("BREW", "/another")
    text = client.get("/metrics").text
    assert 'route="unmatched"' in text
    assert "/some/unknown" not in text
    assert "BREW" not in text


def test_the_docs_page_loads_everything_from_this_server(client: TestClient) -> None:
    page = client.get("/docs").text
    assert "https://" not in page
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"):
        assert f"/docs/assets/{asset}" in page
        assert client.get(f"/docs/assets/{asset}").status_code == 200
    spoken = client.get("/openapi.json").json()["openapi"].rpartition(".")[0]
    assert f"openapi: {spoken}" in client.get("/docs/assets/swagger-ui-bundle.js").text, (
        "the page cannot show a document of this version"
    )


def test_the_openapi_document_describes_the_task_endpoint(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    operation = document["paths"][ROUTE]["post"]
    assert {p["name"] for p in operation["parameters"]} >= {"model", "version", "top_k", "X-Timeout-Ms"}
    assert set(operation["requestBody"]["content"]) == {"image/*", "multipart/form-data", "application/json"}
    assert document["components"]["schemas"]["Classification"]["properties"]["predictions"]
    assert document == client.get("/openapi.json").json()


def test_after_a_lane_died_the_server_is_ready_and_answers_again_within_two_seconds(start: Start) -> None:
    def die() -> None:
        raise SystemExit("forced")

    with start() as client:
        lanes: Lanes = client.app.state.lanes  # type: ignore[attr-defined]
        with pytest.raises(SystemExit):
            lanes.on("cpu").call(die).result(20)
        died = time.monotonic()
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < died + 2
        assert client.post(ROUTE, content=picture(1)).status_code == 200
        assert time.monotonic() < died + 2
        assert client.get("/healthz").status_code == 200
        assert sample(client, "kotae_lane_restarts_total", device="cpu") == 1


def test_a_lane_that_gave_up_makes_the_server_neither_ready_nor_live(start: Start) -> None:
    def die() -> None:
        raise SystemExit("forced")

    with start(lane_restart_limit=0) as client:
        lanes: Lanes = client.app.state.lanes  # type: ignore[attr-defined]
        with pytest.raises(SystemExit):
            lanes.on("cpu").call(die).result(20)
        while not lanes.states()[0].gave_up:
            pass
        assert client.get("/readyz").status_code == 503
        live = client.get("/healthz")
        assert live.status_code == 503
        assert "gave up" in live.text
        assert client.post(ROUTE, content=picture(1)).status_code == 503
        assert sample(client, "kotae_lane_failed", device="cpu") == 1
        assert sample(client, "kotae_model_ready", model="tiny") == 0


def test_the_start_is_logged_with_settings_and_versions(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"), start(max_pixels=1234):
        pass
    (record,) = [record for record in caplog.records if record.getMessage() == "starting"]
    assert vars(record)["settings"]["max_pixels"] == 1234
    assert {"kotae", "python", "onnxruntime"} <= vars(record)["versions"].keys()


def test_a_model_folder_that_goes_away_while_loading_hurts_no_other_model(
    tmp_path: Path, repository: Path
) -> None:
    from service.repository.catalog import Catalog

    make_model(tmp_path, "gone")
    make_model(tmp_path, "sound")
    catalog = Catalog.of_folder(tmp_path)
    shutil.rmtree(tmp_path / "gone")
    catalog.load()
    assert catalog.loaded
    assert "gone" in catalog.missing()
    assert catalog.models["sound"].serving is not None


def test_broken_json_for_the_log_level_is_400(client: TestClient) -> None:
    headers = {"content-type": "application/json"}
    response = client.put("/admin/log-level", content=b"{", headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_input"


def test_an_unforeseen_failure_off_the_busy_routes_has_the_same_shape(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from service.repository.catalog import Model

    with start() as client:
        monkeypatch.setattr(Model, "problem", property(lambda self: 1 / 0))
        response = client.get("/v1/models")
        monkeypatch.undo()
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "inference_failed"
    assert response.json()["error"]["request_id"] == response.headers["x-request-id"]
    assert caplog.text.count("division by zero") >= 1


@pytest.mark.parametrize(
    ("method", "path", "route"),
    [
        ("GET", "/openapi.json", "/openapi.json"),
        ("GET", "/docs", "/docs"),
        ("GET", ROUTE, ROUTE),
        ("GET", "/v1/models/tiny", "/v1/models/{model_id:path}"),
        ("GET", "/v1/nothing", "unmatched"),
    ],
)
def test_a_request_counts_for_its_route(client: TestClient, method: str, path: str, route: str) -> None:
    before = sample(client, "kotae_requests_total", method=method, route=route)
    client.request(method, path)
    assert sample(client, "kotae_requests_total", method=method, route=route) == before + 1
