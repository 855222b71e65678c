"""What reaches the server before HTTP is understood: heads, upgrades, pipelines."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from service.http.server.protocol import BoundedProtocol
from service.http.server.turns import LoopTurns
from tests.end_to_end.server import Server, serving
from tests.tiny_models import picture

ROUTE = "/v1/image-classification"
RAW = picture(1)
HEAD = f"POST {ROUTE} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(RAW)}\r\n".encode()


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    with serving(repository, body_timeout_seconds="1") as server:
        yield server


async def connect(server: Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = server.url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


async def exchange(server: Server, *chunks: bytes) -> bytes:
    reader, writer = await connect(server)
    for chunk in chunks:
        writer.write(chunk)
        await writer.drain()
        await asyncio.sleep(0.02)  # so that they arrive as chunks of their own
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    writer.close()
    return answer


async def test_an_offer_to_upgrade_does_not_cost_the_body(server: Server) -> None:
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
    for chunks in ((HEAD + offer + RAW,), (HEAD + offer, RAW), (HEAD + offer[:25], offer[25:] + RAW)):
        assert (await exchange(server, *chunks)).startswith(b"HTTP/1.1 200")


async def test_a_head_may_come_in_any_pieces(server: Server) -> None:
    message = HEAD + b"\r\n" + RAW
    cuts = [0, 1, 9, len(HEAD) - 1, len(HEAD) + 1, len(HEAD) + 2, len(HEAD) + 30, len(message)]
    pieces = [message[start:end] for start, end in itertools.pairwise(cuts)]
    assert (await exchange(server, *pieces)).startswith(b"HTTP/1.1 200")


async def test_pipelined_requests_are_all_answered(server: Server) -> None:
    message = HEAD + b"\r\n" + RAW
    stream = message * 3
    reader, writer = await connect(server)
    for start in range(0, len(stream), 200):
        writer.write(stream[start : start + 200])
        await writer.drain()
        await asyncio.sleep(0.005)
    for _ in range(3):
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        assert head.startswith(b"HTTP/1.1 200")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        await reader.readexactly(length)
    writer.close()


async def test_a_head_over_the_limit_is_431(server: Server) -> None:
    reader, writer = await connect(server)
    writer.write(HEAD)
    for _ in range(80):
        writer.write(b"X-Filler: " + b"a" * 1000 + b"\r\n")
    answer = await asyncio.wait_for(reader.readuntil(b"}}"), 20)
    assert answer.startswith(b"HTTP/1.1 431") and b'"too_large"' in answer
    writer.close()


async def test_a_head_that_dribbles_or_never_comes_ends_the_connection(server: Server) -> None:
    for beginning in (b"", b"POST / HTT"):
        reader, writer = await connect(server)
        writer.write(beginning)
        assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()


async def test_an_idle_connection_that_was_answered_lives_on(server: Server) -> None:
    reader, writer = await connect(server)
    for _ in range(2):
        writer.write(HEAD + b"\r\n" + RAW)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        assert head.startswith(b"HTTP/1.1 200")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        await reader.readexactly(length)
        await asyncio.sleep(1.2)  # longer than a head may take
    writer.close()


async def test_promised_bodies_take_no_room_from_those_that_came(repository: Path) -> None:
    limits = {"max_inflight_bytes": "100000", "max_body_bytes": "90000"}
    with serving(repository, **limits) as server:
        promises = [await connect(server) for _ in range(4)]
        for _, writer in promises:
            writer.write(f"POST {ROUTE} HTTP/1.1\r\nHost: x\r\nContent-Length: 80000\r\n\r\n".encode())
            await writer.drain()
        await asyncio.sleep(0.05)
        assert (await exchange(server, HEAD + b"\r\n" + RAW)).startswith(b"HTTP/1.1 200")
        for _, writer in promises:
            writer.close()


@pytest.mark.parametrize(
    "garbage",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"hello?\r\n", b"GET / HTTP/1.1\nHost: x\n\n"],
    ids=["tls", "words", "bare line feeds"],
)
async def test_what_is_no_http_is_refused_at_once(server: Server, garbage: bytes) -> None:
    assert (await exchange(server, garbage)).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("before", [b"\r\n\r\n", HEAD + b"\r\n" + RAW], ids=["empty lines", "pipelined"])
async def test_no_way_around_the_limit_of_a_head(server: Server, before: bytes) -> None:
    reader, writer = await connect(server)
    writer.write(before + HEAD)
    answer, ended = b"", False
    try:
        for _ in range(2000):
            writer.write(b"X-Filler: " + b"a" * 1000 + b"\r\n")
            await writer.drain()
        answer = await asyncio.wait_for(reader.read(), 20)
        ended = True
    except ConnectionError:  # it was closed while we were still sending: the 431 may be lost on the way
        ended = True
    assert ended and b"HTTP/1.1 200" not in answer.replace(b"HTTP/1.1 200", b"", before.count(b"POST"))
    writer.close()


async def test_empty_lines_before_a_request_are_passed_over(server: Server) -> None:
    assert (await exchange(server, b"\r\n\r\n" + HEAD + b"\r\n" + RAW)).startswith(b"HTTP/1.1 200")


async def answer_of(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return head, await reader.readexactly(length)


REFUSED = f"POST {ROUTE}?model=none HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize("size", [10, 5_000_000])
async def test_who_is_refused_before_the_body_reads_the_answer_and_goes_on(server: Server, size: int) -> None:
    reader, writer = await connect(server)
    writer.write(f"{REFUSED}Content-Length: {size}\r\n\r\n".encode())
    for _ in range(10):
        writer.write(bytes(size // 10))
        await writer.drain()
    head, _ = await answer_of(reader)
    assert head.startswith(b"HTTP/1.1 404") and b"connection: close" not in head
    writer.write(HEAD + b"\r\n" + RAW)
    assert (await answer_of(reader))[0].startswith(b"HTTP/1.1 200")
    writer.close()


async def test_the_rest_of_a_refused_body_has_a_limit_of_time(server: Server) -> None:
    reader, writer = await connect(server)
    writer.write(f"{REFUSED}Content-Length: 1000\r\n\r\n".encode() + bytes(10))
    assert (await answer_of(reader))[0].startswith(b"HTTP/1.1 404")
    for _ in range(3):
        writer.write(bytes(10))  # dribbling does not help
        await asyncio.sleep(0.2)
    assert await asyncio.wait_for(reader.read(), 20) == b""
    writer.close()


async def test_a_client_that_waits_to_be_told_to_send_is_refused_and_closed(server: Server) -> None:
    reader, writer = await connect(server)
    writer.write(f"{REFUSED}Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n".encode())
    head, _ = await answer_of(reader)
    assert head.startswith(b"HTTP/1.1 404") and b"connection: close" in head
    assert await asyncio.wait_for(reader.read(), 20) == b""
    writer.close()


class RefusesOnePath:
    """An early refusal of what asks for `/refused`."""

    def check(self, url: bytes, headers: Iterable[tuple[bytes, bytes]], port: int, received: float) -> bytes:
        refusal = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\n\r\nno"
        return refusal if url == b"/refused" else b""


@asynccontextmanager
async def listening(
    app: Any, turns: LoopTurns | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to the protocol alone."""
    config, state = uvicorn.Config(app, lifespan="off"), ServerState()
    bounds = {
        "turns": turns or LoopTurns(),
        "count_unread": staticmethod(lambda: None),
        "check_early": RefusesOnePath().check,
    }
    kind: Any = type("Protocol", (BoundedProtocol,), bounds)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: kind(config, state, {}), "127.0.0.1")
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        yield reader, writer
        writer.close()
        await writer.wait_closed()


async def test_connections_and_answers_are_work_that_others_wait_for() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        calls.append("app")
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        calls.append("answered")

    class Seen(LoopTurns):
        def received(self) -> float:
            calls.append("received")
            return super().received()

    calls: list[str] = []
    async with listening(app, Seen()) as (reader, writer):
        while not calls:
            await asyncio.sleep(0)
        assert calls == ["received"]
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        while "answered" not in calls:
            await asyncio.sleep(0)
    assert calls[calls.index("app") :] == ["app", "received", "answered"]


class FullTurns(LoopTurns):
    """Turns that take nothing until they are told to."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[tuple[Any, bytes]] = []
        self.is_open = False

    def take(self, reader: Any, data: bytes) -> bool:
        if not self.is_open:
            self.waiting.append((reader, data))
        return self.is_open


async def answer_yes(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]})
    await send({"type": "http.response.body", "body": b"yes"})


async def test_a_request_that_waits_for_its_turn_is_answered_although_the_server_shuts_down() -> None:
    turns = FullTurns()
    async with listening(answer_yes, turns) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        while not turns.waiting:
            await asyncio.sleep(0.001)
        ((protocol, data),) = turns.waiting
        protocol.shutdown()
        await asyncio.sleep(0.01)
        assert not protocol.transport.is_closing()
        protocol.take(data, 1.0)
        answer = await asyncio.wait_for(reader.read(), 20)
        assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"yes")


async def test_a_request_that_has_waited_too_long_is_refused_and_its_connection_closed() -> None:
    turns = FullTurns()
    async with listening(answer_yes, turns) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        while not turns.waiting:
            await asyncio.sleep(0.001)
        turns.waiting[0][0].turn_away()
        answer = await asyncio.wait_for(reader.read(), 20)
        assert answer.startswith(b"HTTP/1.1 429") and b"connection: close" in answer
        assert b'"code":"overloaded"' in answer and b"retry-after-ms: 1000" in answer


async def test_a_client_that_hangs_up_before_its_turn_disturbs_nobody() -> None:
    turns = FullTurns()
    async with listening(answer_yes, turns) as (_, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        while not turns.waiting:
            await asyncio.sleep(0.001)
        protocol, data = turns.waiting[0]
        protocol.transport.abort()
        await asyncio.sleep(0.01)
        protocol.take(data, 1.0)
        protocol.turn_away()


async def test_a_refused_request_costs_the_connection_nothing() -> None:
    bodies: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        bodies.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]})
        await send({"type": "http.response.body", "body": b"yes"})

    refused, welcome = (
        b"POST /%b HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n" % path
        for path in (b"refused", b"welcome")
    )
    async with listening(app) as (reader, writer):
        for head, body, end in (
            (refused, b"POST", b"no"),
            (welcome, b"good", b"yes"),
            (refused, b"POST", b"no"),
            (refused, b"POST", b"no"),
            (welcome, b"fine", b"yes"),
        ):
            writer.write(head + body)
            answer = await asyncio.wait_for(reader.readuntil(end), 20)
            assert answer.startswith(b"HTTP/1.1 429" if end == b"no" else b"HTTP/1.1 200")
        writer.write(refused + b"post" + welcome + b"next")  # what has come is not one whole request
        answer = await asyncio.wait_for(reader.readuntil(b"yes"), 20)
        assert answer.startswith(b"HTTP/1.1 200")
        await asyncio.wait_for(reader.readuntil(b"yes"), 20)
        writer.write(refused[:-2] + b"Connection: close\r\n\r\nlast")  # needs more than an answer
        assert (await asyncio.wait_for(reader.read(), 20)).startswith(b"HTTP/1.1 200")
    assert bodies == [b"good", b"fine", b"post", b"next", b"last"]
