"""The load generator against a server with scripted answers."""

from __future__ import annotations

import asyncio

import pytest

from service.errors import StartFailed
from service.tools.load.generator import LoadGenerator, send_once
from service.tools.load.plan import LoadPlan, TargetAddress
from service.tools.load.results import LoadRecorder, LoadSummary, summarise
from tests.service.tools.load.scripted_server import ScriptedServer, answer, scripted


def plan(server: ScriptedServer, **how: object) -> LoadPlan:
    address = TargetAddress.parse(f"http://127.0.0.1:{server.port}/x")
    fields: dict[str, object] = {
        "requests": (address.post(b"one", {}), address.post(b"two", {})),
        "seconds": 0.3,
        **how,
    }
    return LoadPlan(address, **fields)  # type: ignore[arg-type]


def load(wanted: LoadPlan) -> tuple[LoadRecorder, LoadSummary]:
    recorder = LoadRecorder(wanted.deadline_seconds)
    seconds = asyncio.run(LoadGenerator(wanted, recorder).run())
    return recorder, summarise(recorder, seconds)


def test_a_closed_loop_holds_as_many_connections_as_clients_and_counts_every_answer() -> None:
    with scripted() as server:
        recorder, summary = load(plan(server, clients=3))
        assert server.connections == 3
        assert recorder.answered == recorder.sent == len(server.requests) > 3
    assert summary.statuses == {"200": recorder.sent}
    assert summary.answered_rate == summary.goodput == pytest.approx(recorder.sent / summary.seconds)
    assert (summary.broken, summary.unanswered, summary.unsent) == (0, 0, 0)


def test_an_open_loop_sends_a_poisson_process_whatever_the_server_does() -> None:
    with scripted() as server:
        recorder, summary = load(plan(server, rate=400.0, seed=5))
    assert 80 < recorder.sent < 160  # 120 are expected; five standard deviations are 55
    assert summary.requests == recorder.sent == len(server.requests)
    assert summary.offered_rate == pytest.approx(recorder.sent / 0.3)


def test_requests_are_sent_in_turn() -> None:
    with scripted() as server:
        load(plan(server, clients=1))
        bodies = [request.rpartition(b"\r\n\r\n")[2] for request in server.requests]
    assert set(bodies[0::2]) | set(bodies[1::2]) == {b"one", b"two"}
    assert len(set(bodies[0::2])) == len(set(bodies[1::2])) == 1


def test_latency_counts_from_the_due_time() -> None:
    """With one connection and a first answer that stalls, the time in the client counts as latency."""

    async def stalls_first(number: int, writer: asyncio.StreamWriter) -> None:
        if number == 0:
            await asyncio.sleep(0.5)
        writer.write(answer())

    with scripted(stalls_first) as server:
        recorder, summary = load(
            plan(server, rate=200.0, max_connections=1, seconds=0.2, deadline_seconds=0.1)
        )
    assert recorder.sent + recorder.unsent == summary.requests
    assert recorder.sent == 2  # the one that stalled and the one that may wait
    assert recorder.unsent == summary.requests - 2 > 0
    assert min(recorder.latencies) > 0.3
    assert (summary.late, summary.goodput) == (2, 0.0)


def test_refusals_are_counted_by_status_and_apart_from_answers() -> None:
    async def refuses_every_third(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(429 if number % 3 == 0 else 200))

    with scripted(refuses_every_third) as server:
        recorder, summary = load(plan(server, clients=2))
        count = len(server.requests)
    assert summary.statuses == {"200": count - (count + 2) // 3, "429": (count + 2) // 3}
    assert len(recorder.refusals) == summary.statuses["429"]
    assert summary.refusal_ms["max"] > 0


@pytest.mark.parametrize("how", [{"clients": 2}, {"rate": 100.0}])
def test_a_connection_that_ends_early_is_broken_and_replaced(how: dict[str, float]) -> None:
    async def hangs_up_every_other(number: int, writer: asyncio.StreamWriter) -> None:
        if number % 2 == 0:
            writer.write(answer()[:-1])
            writer.close()
        else:
            writer.write(answer())

    with scripted(hangs_up_every_other) as server:
        recorder, summary = load(plan(server, **how))
        assert summary.broken == (len(server.requests) + 1) // 2
    assert summary.broken + recorder.statuses[200] == recorder.sent


def test_a_server_may_close_after_each_answer() -> None:
    async def closes(_: int, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(200, b"{}", "Connection: close"))
        writer.close()

    with scripted(closes) as server:
        _, summary = load(plan(server, clients=2))
        assert server.connections >= len(server.requests) > 2
    assert (set(summary.statuses), summary.broken) == ({"200"}, 0)


def test_a_missing_answer_times_out() -> None:
    async def says_nothing(_: int, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    with scripted(says_nothing) as server:
        recorder, summary = load(plan(server, rate=50.0, timeout_seconds=0.2, seconds=0.2))
    assert summary.unanswered == recorder.sent > 0
    assert summary.latency_ms == {}


def test_an_answer_that_is_not_http_counts_as_broken() -> None:
    async def babbles(_: int, writer: asyncio.StreamWriter) -> None:
        writer.write(b"no protocol of ours\r\n\r\n")

    with scripted(babbles) as server:
        _, summary = load(plan(server, clients=1, seconds=0.1))
    assert summary.broken > 0
    assert summary.statuses == {}


def test_interim_answers_are_ignored() -> None:
    async def continues(_: int, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" + answer(200, b"whole"))

    with scripted(continues) as server:
        wanted = plan(server, clients=1)
        assert asyncio.run(send_once(wanted, wanted.requests[0])) == (200, b"whole")


def test_a_refused_connection_is_an_error_at_the_start_only() -> None:
    with scripted() as server:
        wanted = plan(server, clients=1)
    with pytest.raises(StartFailed, match="no connection to"):
        asyncio.run(send_once(wanted, wanted.requests[0]))
    recorder, _ = load(wanted)  # and a server that goes away meanwhile ends no load early
    assert recorder.broken > 0
    assert recorder.sent == 0


def test_no_answer_to_the_first_request_is_an_error() -> None:
    async def says_nothing(_: int, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    with scripted(says_nothing) as server:
        wanted = plan(server, clients=1, timeout_seconds=0.1)
        with pytest.raises(StartFailed, match=r"no answer within 0\.1 s"):
            asyncio.run(send_once(wanted, wanted.requests[0]))
