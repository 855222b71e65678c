"""What the door refused is refused again before any work, and told of like every other request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from service.errors import Overloaded
from service.http.server.turnstile import Turnstile

URL = b"/v1/image-classification?model=m"
HEADERS = [(b"host", b"h"), (b"x-timeout-ms", b"50"), (b"authorization", b"Bearer a")]
WHOLE = [*HEADERS, (b"content-length", b"7")]


def scope(url: bytes = URL, headers: Sequence[tuple[bytes, bytes]] = WHOLE) -> dict[str, Any]:
    path, _, query = url.partition(b"?")
    state = {"request_id": "first", "model": "m", "key": "app", "error_message": "late by 1 s"}
    return {"raw_path": path, "query_string": query, "headers": list(headers), "state": state}


class Door:
    """Refuses whatever arrived before a moment."""

    def __init__(self) -> None:
        self.opens = 10.0
        self.coming: list[int] = []

    def check(self, arrived: float, coming: int) -> None:
        self.coming.append(coming)
        if arrived < self.opens:
            raise Overloaded("late by 2 s", reason="door", retry_after_seconds=1.25)


class Fixture:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 5.0
        self.told: list[Any] = []
        self.is_draining = False
        self.door = Door()
        self.turnstile = Turnstile(
            lambda refused: self.told.append(list(refused)),
            lambda headers: dict(headers).get(b"x-request-id", b"made").decode(),
            lambda: self.is_draining,
        )
        monkeypatch.setattr("service.http.server.turnstile.time.monotonic", lambda: self.now)

    def ask(
        self,
        *more: tuple[bytes, bytes],
        url: bytes = URL,
        headers: Sequence[tuple[bytes, bytes]] = WHOLE,
        body_bytes: int = 7,
        arrived: float = 5.0,
    ) -> bytes | None:
        return self.turnstile.turn_away(url, [*headers, *more], body_bytes, arrived)


@pytest.fixture
def fixture(monkeypatch: pytest.MonkeyPatch) -> Fixture:
    return Fixture(monkeypatch)


async def test_nobody_is_refused_before_the_door_refused_somebody(fixture: Fixture) -> None:
    assert fixture.ask() is None


async def test_who_asks_the_same_gets_the_answer_that_the_door_would_give(fixture: Fixture) -> None:
    fixture.turnstile.remember(scope(), fixture.door.check)
    answer = fixture.ask((b"x-request-id", b"mine"), (b"user-agent", b"another"))
    assert answer is not None
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert status == "HTTP/1.1 429 Too Many Requests"
    assert headers == {
        "content-length": str(len(body)),
        "content-type": "application/json",
        "retry-after": "2",
        "retry-after-ms": "1250",
        "x-request-id": "mine",
    }
    assert json.loads(body) == {
        "error": {
            "message": "late by 2 s",
            "type": "rate_limit_error",
            "code": "overloaded",
            "param": None,
            "request_id": "mine",
        }
    }


@pytest.mark.parametrize(
    "other",
    [
        {"url": b"/v1/image-classification?model=n"},
        {"headers": [*HEADERS[:1], *HEADERS[2:], (b"content-length", b"7")]},
        {"headers": [*HEADERS[:2], (b"authorization", b"Bearer b"), (b"content-length", b"7")]},
        {"headers": HEADERS},
        {"body_bytes": 6},
        {"body_bytes": 8},
        {"headers": [*WHOLE, (b"expect", b"100-continue")]},
        {"headers": [*WHOLE, (b"content-encoding", b"gzip")]},
        {"headers": [*WHOLE, (b"x-priority", b"1")]},
    ],
)
async def test_whoever_asks_anything_else_goes_the_whole_way(fixture: Fixture, other: dict[str, Any]) -> None:
    fixture.turnstile.remember(scope(), fixture.door.check)
    assert fixture.ask(**other) is None
    assert fixture.door.coming == []
    assert fixture.ask() is not None


async def test_who_would_be_let_in_by_now_goes_the_whole_way_and_is_counted_in(fixture: Fixture) -> None:
    fixture.turnstile.remember(scope(), fixture.door.check)
    assert fixture.ask(arrived=10.0) is None
    assert fixture.ask(arrived=10.0) is None
    assert fixture.ask(arrived=9.0) is not None
    await asyncio.sleep(0)  # those who were let pass have begun
    assert fixture.ask(arrived=9.0) is not None
    assert fixture.door.coming == [0, 1, 2, 0]


async def test_what_was_refused_long_ago_is_forgotten(fixture: Fixture) -> None:
    fixture.turnstile.remember(scope(), fixture.door.check)
    fixture.now = 5.09
    assert fixture.ask() is not None
    fixture.now = 5.18
    assert fixture.ask() is not None  # it still would have been
    fixture.now = 5.29
    assert fixture.ask() is None


async def test_a_draining_server_answers_with_all_its_headers(fixture: Fixture) -> None:
    fixture.turnstile.remember(scope(), fixture.door.check)
    fixture.is_draining = True
    assert fixture.ask() is None


async def test_it_tells_once_a_turn_of_all_whom_it_refused(fixture: Fixture) -> None:
    first = scope()
    fixture.turnstile.remember(first, fixture.door.check)
    first["state"]["refused"] = "door"  # known once it is answered
    fixture.ask((b"x-request-id", b"a"))
    fixture.ask((b"x-request-id", b"b"))
    assert fixture.told == []
    await asyncio.sleep(0)
    (told,) = fixture.told
    assert [refused["state"]["request_id"] for refused, _ in told] == ["a", "b"]
    assert told[0][0]["state"]["refused"] == "door" and told[0][0]["state"]["key"] == "app"
    assert told[0][0]["state"]["error_message"] == "late by 2 s"
    assert first["state"]["request_id"] == "first"
    fixture.ask()
    await asyncio.sleep(0)
    assert len(fixture.told) == 2


async def test_what_it_remembers_is_bounded(fixture: Fixture) -> None:
    for number in range(1000):
        fixture.turnstile.remember(scope(url=b"/x?%d" % number), fixture.door.check)
    assert len(fixture.turnstile._known) <= 256
