"""However a request ends, its bytes are given back and it is counted once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.http.body_limits import BodyLimits
from tests.service.http.conftest import Start
from tests.tiny_models import picture

ROUTE = "/v1/image-classification"
BODY = picture(1, size=64)
PART = {"type": "http.request", "body": BODY[:-1], "more_body": True}
WHOLE = {"type": "http.request", "body": BODY, "more_body": False}
GONE = {"type": "http.disconnect"}


@pytest.fixture(scope="module")
def client(start: Start) -> Iterator[TestClient]:
    """A server that holds the bytes of one body."""
    with start(max_inflight_bytes=len(BODY), max_body_bytes=len(BODY), body_timeout_seconds=0.3) as client:
        yield client


def ask(client: TestClient, *messages: Any, cancel: threading.Event | None = None) -> list[int]:
    """Send a request as a server would, and nothing after the given messages.

    Args:
        client: Of the application.
        messages: What the server receives of the request.
        cancel: If it is given, the request's task is cancelled once it is set.

    Returns:
        The status of each response.
    """
    statuses: list[int] = []

    async def serve() -> None:
        left = list(messages)

        async def receive() -> Any:
            return left.pop(0) if left else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        scope = {
            "type": "http",
            "method": "POST",
            "path": ROUTE,
            "query_string": b"",
            "headers": [],
            "server": ("127.0.0.1", 80),
        }
        app: Any = client.app
        task = asyncio.ensure_future(app(scope, receive, send))
        if cancel is not None:
            await asyncio.to_thread(cancel.wait, 30)
            task.cancel()
        await asyncio.wait([task])

    assert client.portal is not None
    client.portal.call(serve)
    return statuses


def counted(client: TestClient) -> dict[str, float]:
    """Read how many requests to the route ended with each status, and how many are in progress."""
    counts = {}
    for line in client.get("/metrics").text.splitlines():
        name, _, value = line.rpartition(" ")
        if name.startswith("kotae_requests_total") and f'route="{ROUTE}"' in name:
            counts[name.partition('status="')[2].partition('"')[0]] = float(value)
        elif name == "kotae_inflight_requests":
            counts["in progress"] = float(value) - 1  # without this one
    return counts


def busy(client: TestClient) -> Callable[[], None]:
    """Keep the lane busy until the returned function is called."""
    gate = threading.Event()
    app: Any = client.app
    app.state.lanes.on("cpu").call(gate.wait)
    return gate.set


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        ([GONE], 499),
        ([PART, GONE], 499),
        ([PART], 408),
        ([PART, PART], 413),
        ([{**WHOLE, "body": b"no picture"}], 400),
        ([WHOLE], 200),
    ],
)
def test_each_is_counted_once_and_its_bytes_are_given_back(
    client: TestClient, messages: Any, status: int
) -> None:
    before = counted(client)
    sent = ask(client, *messages)
    assert sent == ([] if status == 499 else [status])
    before[str(status)] = before.get(str(status), 0.0) + 1
    assert counted(client) == before
    assert client.post(ROUTE, content=BODY).status_code == 200


def test_a_client_that_hangs_up_while_its_request_waits(client: TestClient) -> None:
    before, free = counted(client), busy(client)
    try:
        assert ask(client, WHOLE, GONE) == []
    finally:
        free()
    assert counted(client) == {**before, "499": before.get("499", 0.0) + 1}
    assert client.post(ROUTE, content=BODY).status_code == 200


def test_a_request_whose_task_is_cancelled(client: TestClient) -> None:
    before, free, cancel = counted(client), busy(client), threading.Event()
    threading.Timer(0.1, cancel.set).start()
    try:
        assert ask(client, WHOLE, cancel=cancel) == []
    finally:
        free()
    assert counted(client) == {**before, "499": before.get("499", 0.0) + 1}
    assert client.post(ROUTE, content=BODY).status_code == 200


async def test_bytes_that_work_still_reads_are_held_until_it_ends() -> None:
    limits = BodyLimits(max_body_bytes=10, max_inflight_bytes=10, body_timeout_seconds=1)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"12345", "more_body": False}

    body = limits.body(receive)
    assert await body.read(is_there=True) == b"12345"
    assert limits._held_bytes == 5
    work: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    body.release(work)
    assert limits._held_bytes == 5
    work.set_exception(ValueError("bad"))
    await asyncio.wait([work])
    await asyncio.sleep(0)
    assert limits._held_bytes == 0
    assert work.exception() is not None
