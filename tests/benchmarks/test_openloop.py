"""The C load generator against a server that does as it is told."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from benchmarks.machine import cores
from benchmarks.openloop import Outcome, Stream, build, load
from tests.service.tools.load.scripted_server import ScriptedServer, answer, scripted

pytestmark = pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")

CORE = cores(quick=True).load


def request(body: bytes = b"body") -> bytes:
    return b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def ask(server: ScriptedServer, stream: Stream, seconds: float = 0.3, **how: float) -> Outcome:
    (outcome,) = load(server.port, [stream], seconds, core=CORE, **how)  # type: ignore[arg-type]
    return outcome


def test_the_program_is_built_once() -> None:
    assert build() == build()
    assert build().is_file()


def test_a_closed_loop_holds_as_many_connections_as_clients() -> None:
    with scripted() as server:
        outcome = ask(server, Stream([request(b"one"), request(b"two")], clients=3, deadline_ms=60_000))
        assert server.connections == 3
        assert outcome.sent == outcome.ok == outcome.in_deadline == len(server.requests) > 3
        bodies = {asked.rpartition(b"\r\n\r\n")[2] for asked in server.requests}
    assert bodies == {b"one", b"two"}
    assert outcome.require_clean("it") is outcome
    assert outcome.rate == pytest.approx(outcome.ok / outcome.seconds)


def test_an_open_loop_arrives_at_its_rate_and_repeats_with_its_seed() -> None:
    counts = []
    for _ in range(2):
        with scripted() as server:
            outcome = ask(server, Stream([request()], rate=400.0), seed=7)
            assert outcome.arrivals == outcome.sent == len(server.requests)
            counts.append(outcome.arrivals)
    assert counts[0] == counts[1]
    assert 70 < counts[0] < 170  # 120 are expected; five standard deviations are 55


def test_streams_are_told_apart() -> None:
    async def refuses_b(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(429 if server.requests[number].endswith(b"b") else 200))

    with scripted(refuses_b) as server:
        streams = [Stream([request(b"a")], rate=100.0), Stream([request(b"b")], clients=1)]
        first, second = load(server.port, streams, 0.3, core=CORE)
    assert set(first.statuses) == {"200"}
    assert set(second.statuses) == {"429"}
    assert second.refused == len(server.requests) - first.ok > 0
    assert second.refusal_ms["p50"] > 0
    with pytest.raises(SystemExit, match="not every request was answered"):
        second.require_clean("b")


def test_latency_counts_from_when_a_request_was_meant_to_leave() -> None:
    async def stalls_first(number: int, writer: asyncio.StreamWriter) -> None:
        if number == 0:
            await asyncio.sleep(0.5)
        writer.write(answer())

    with scripted(stalls_first) as server:
        outcome = ask(server, Stream([request()], rate=200.0, deadline_ms=100), seconds=0.2, connections=1)
    assert outcome.sent == 2  # the one that stalled and the one that may wait
    assert outcome.unsent == outcome.arrivals - 2 > 0
    assert outcome.latency_ms["p50"] > 300
    assert (outcome.late, outcome.goodput) == (2, 0)


def test_connections_that_end_early_are_broken_and_replaced() -> None:
    async def hangs_up_every_other(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(answer() if number % 2 else answer()[:-1])
        if number % 2 == 0:
            writer.close()

    with scripted(hangs_up_every_other) as server:
        outcome = ask(server, Stream([request()], clients=2))
        count = len(server.requests)
    assert outcome.broken == (count + 1) // 2
    assert outcome.ok == count // 2


@pytest.mark.parametrize("lengthless", [False, True])
def test_a_server_may_close_after_each_answer(lengthless: bool) -> None:
    async def closes(_: int, writer: asyncio.StreamWriter) -> None:
        whole = answer(503, b"busy", "Connection: close")
        writer.write(whole.replace(b"Content-Length: 4\r\n", b"") if lengthless else whole)
        writer.close()

    with scripted(closes) as server:
        outcome = ask(server, Stream([request()], clients=2))
        assert outcome.refused == len(server.requests) > 2
    assert outcome.statuses == {"503": outcome.refused}
    assert outcome.broken == 0


def test_large_answers_and_large_requests_pass_whole() -> None:
    async def says_much(_: int, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(200, bytes(300_000)))

    with scripted(says_much) as server:
        outcome = ask(server, Stream([request(bytes(500_000))], clients=1))
        assert outcome.ok == len(server.requests) > 0
        assert {len(asked) for asked in server.requests} == {len(request(bytes(500_000)))}


def test_an_answer_that_does_not_come_is_unanswered() -> None:
    async def says_nothing(_: int, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    with scripted(says_nothing) as server:
        outcome = ask(server, Stream([request()], rate=50.0), seconds=0.2, patience_seconds=0.1)
    assert outcome.unanswered == outcome.sent > 0


@pytest.mark.parametrize(
    "reply", [b"no protocol of ours\r\n\r\n", b"HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\n"]
)
def test_what_it_does_not_understand_is_broken(reply: bytes) -> None:
    async def babbles(_: int, writer: asyncio.StreamWriter) -> None:
        writer.write(reply)

    with scripted(babbles) as server:
        outcome = ask(server, Stream([request()], clients=1), seconds=0.1)
    assert outcome.broken > 0
    assert outcome.statuses == {}


def test_where_nobody_listens_every_request_is_broken() -> None:
    with scripted() as server:
        pass
    outcome = ask(server, Stream([request()], rate=100.0), seconds=0.2)
    assert outcome.broken == outcome.arrivals > 0
