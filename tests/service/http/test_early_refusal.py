"""A request that arrives whole, shortly after a refusal, is refused before a task is made for it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.http.auth import add_key
from service.telemetry.logs import JsonFormatter
from tests.service.http.conftest import Start
from tests.tiny_models import picture

ROUTE = "/v1/image-classification"
LATE = {"x-timeout-ms": "0.000001", "x-request-id": "mine"}  # has passed before anything is checked
METRICS = (
    "kotae_requests_total",
    "kotae_rejected_total",
    "kotae_inflight_requests",
    "kotae_request_duration",
)


class LogLines(logging.Handler):
    """Keeps the lines of requests as they would be written."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = json.loads(self.format(record))
        self.lines.append({key: value for key, value in line.items() if key not in ("time", "seconds")})


@pytest.fixture
def log() -> Iterator[LogLines]:
    logger, handler = logging.getLogger("kotae.request"), LogLines()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


@pytest.fixture(autouse=True)
def _long_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.inference.load_shedding._RECENT_SECONDS", 60.0)


def refuse_one(client: TestClient, **headers: str) -> Any:
    """Have one request refused the usual way."""
    response = client.post(ROUTE, content=picture(1), headers=LATE | headers)
    assert response.status_code == 429
    return response


def check(client: TestClient, url: str = ROUTE, **headers: str) -> bytes:
    """Check a request as the protocol does; a header's name has "_" for "-"."""
    given = LATE | {name.replace("_", "-"): value for name, value in headers.items()}
    pairs = [(name.encode(), value.encode()) for name, value in given.items()]
    app: Any = client.app
    answer: bytes = app.state.early_refusal.check(url.encode(), pairs, 80, time.monotonic())
    return answer


def counted(client: TestClient, names: Sequence[str] = METRICS) -> dict[str, float]:
    """Read the metrics of requests; of durations the number only."""
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith(tuple(names))]
    pairs = [line.rsplit(" ", 1) for line in lines if "/metrics" not in line and "_seconds_sum" not in line]
    return {name: float(value) for name, value in pairs if "_bucket" not in name and "_created" not in name}


def test_nothing_is_refused_early_before_a_refusal(start: Start) -> None:
    with start() as client:
        assert check(client) == b""
        refuse_one(client)
        assert check(client) != b""


def test_the_response_is_that_of_the_usual_way(client: TestClient) -> None:
    usual = refuse_one(client)
    head, _, body = check(client).partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    assert status == "HTTP/1.1 429 Too Many Requests"
    headers = dict(line.split(": ", 1) for line in lines)
    assert headers == dict(usual.headers)
    assert headers["x-request-id"] == "mine" and headers["retry-after"] == "1"
    assert body == usual.content


def test_metrics_and_log_line_are_those_of_the_usual_way(client: TestClient, log: LogLines) -> None:
    before = counted(client)
    refuse_one(client)
    after_usual = counted(client)
    check(client)
    after_early = counted(client)
    changes = {name: value - before.get(name, 0.0) for name, value in after_usual.items()}
    assert {name: value - after_usual.get(name, 0.0) for name, value in after_early.items()} == changes
    assert sum(changes.values()) == 3  # counted, timed and rejected once; nothing is left in progress
    usual, early = (line for line in log.lines if line["route"] == ROUTE)
    assert early == usual
    assert (early["request_id"], early["model"], early["error"]) == ("mine", "tiny", "overloaded")


def test_a_request_that_would_be_in_time_goes_the_usual_way(client: TestClient) -> None:
    refuse_one(client)
    assert check(client, x_timeout_ms="60000") == b""


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("/v1/models", {}),
        ("/v1/embeddings", {}),  # its body is JSON, whatever the header says
        (f"{ROUTE}?model=none", {}),
        (f"{ROUTE}?top_k=many", {}),
        (ROUTE, {"content_type": "application/json"}),
        (ROUTE, {"content_type": "multipart/form-data; boundary=x"}),
        (ROUTE, {"x_timeout_ms": "soon"}),
        (ROUTE, {"x_priority": "high"}),
        (ROUTE, {"content_encoding": "gzip"}),
        (ROUTE, {"content_length": "999999999999"}),
    ],
)
def test_what_is_not_sure_to_be_late_or_is_wrong_goes_the_usual_way(
    client: TestClient, log: LogLines, url: str, headers: dict[str, str]
) -> None:
    refuse_one(client)
    before = counted(client)
    assert check(client, url, **headers) == b""
    assert counted(client) == before
    assert len([line for line in log.lines if line["route"] == ROUTE]) == 1


def test_a_draining_server_refuses_nothing_early(start: Start) -> None:
    with start() as client:
        refuse_one(client)
        client.app.state.lifecycle.draining = True  # type: ignore[attr-defined]
        assert check(client) == b""


def test_a_request_with_a_wrong_key_or_on_another_port_goes_the_usual_way(
    start: Start, tmp_path: Path, log: LogLines
) -> None:
    key = add_key(tmp_path / "keys.yaml", "the client", ("infer",))
    metrics_key = add_key(tmp_path / "keys.yaml", "the scraper", ("metrics",))
    with start(auth="required", keys_file=tmp_path / "keys.yaml") as client:
        refuse_one(client, **{"x-api-key": key})
        assert check(client) == b""
        assert check(client, x_api_key="wrong") == b""
        assert check(client, x_api_key=metrics_key) == b""
        assert check(client, x_api_key=key) != b""
        client.app.state.operations_port = 80  # type: ignore[attr-defined]
        assert check(client, x_api_key=key) == b""
    assert [line["key"] for line in log.lines if line["route"] == ROUTE] == ["the client", "the client"]
