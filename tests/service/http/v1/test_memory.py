"""What a request held is free as soon as it is answered, without the garbage collector."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.engine.queue.pending_request import PendingRequest
from service.inference.request import InferenceRequest
from tests.tiny_models import picture

ROUTE = "/v1/image-classification"


@contextmanager
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def left() -> list[object]:
    return [thing for thing in gc.get_objects() if type(thing) in (InferenceRequest, PendingRequest)]


def assert_nothing_is_left() -> None:
    until = time.monotonic() + 5
    while left() and time.monotonic() < until:
        time.sleep(0.01)
    held = left()
    assert not held, [type(r).__name__ for thing in held for r in gc.get_referrers(thing)]


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (200, picture(1), {}),
        (400, b"no picture", {}),
        (400, picture(1)[:-40], {}),
        (415, picture(1), {"content-encoding": "gzip"}),
        (422, picture(1), {"x-priority": "high"}),
        (429, picture(1), {"x-timeout-ms": "0.001"}),
    ],
    ids=["answered", "no picture", "cut off", "compressed", "bad header", "refused"],
)
def test_an_answered_request_leaves_nothing(
    client: TestClient, status: int, body: bytes, headers: dict[str, str]
) -> None:
    with no_collector():
        assert client.post(ROUTE, content=body, headers=headers).status_code == status
        assert_nothing_is_left()


def test_several_items_of_which_one_is_bad_leave_nothing(client: TestClient) -> None:
    files = [("file", ("x.png", content)) for content in (picture(1), b"no picture", picture(2))]
    with no_collector():
        assert client.post(ROUTE, files=files).status_code == 400
        assert_nothing_is_left()


def test_a_request_whose_deadline_passes_leaves_nothing(client: TestClient) -> None:
    gate = threading.Event()
    app: Any = client.app
    app.state.lanes.on("cpu").call(gate.wait)
    with no_collector():
        response = client.post(ROUTE, content=picture(1), headers={"x-timeout-ms": "300"})
        assert response.status_code == 504
        gate.set()
        assert_nothing_is_left()


def test_a_request_that_fails_in_the_graph_leaves_nothing(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("forced")

    monkeypatch.setattr("service.engine.lane.lane.check_rows", fail)
    # The log records that pytest keeps refer to the error.
    monkeypatch.setattr(logging.getLogger("service.engine.lane.failure_isolation"), "disabled", True)
    with no_collector():
        assert client.post(ROUTE, content=picture(1)).status_code == 500
        assert_nothing_is_left()
