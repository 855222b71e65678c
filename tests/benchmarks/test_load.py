"""Loads from a separate process against a server with scripted answers."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.load import Stream, load, require_all_ok
from benchmarks.machine import cores
from benchmarks.workloads import post
from tests.service.tools.load.scripted_server import answer, scripted

CORE = cores(quick=True).load


def request(body: bytes) -> bytes:
    return post("/x", body, "text/plain", {})


def test_streams_run_together_and_have_their_own_summaries() -> None:
    async def refuses_b(number: int, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(429 if server.requests[number].endswith(b"b") else 200))

    with scripted(refuses_b) as server:
        streams = [
            Stream([request(b"a")], rate=100.0, deadline_ms=60_000),
            Stream([request(b"b")], clients=1),
        ]
        first, second = load(server.port, streams, 0.3, core=CORE)
        assert first.ok + second.refused == len(server.requests)
    assert first.statuses == {"200": first.requests}
    assert (first.late, first.goodput) == (0, first.answered_rate)
    assert set(second.statuses) == {"429"}
    require_all_ok(first, "a")
    with pytest.raises(SystemExit, match="b: not every request was answered"):
        require_all_ok(second, "b")


def test_arrivals_repeat_with_their_seed() -> None:
    with scripted() as server:
        counts = [
            load(server.port, [Stream([request(b"a")], rate=400.0)], 0.2, core=CORE, seed=seed)[0].requests
            for seed in (7, 7)
        ]
    assert counts[0] == counts[1] > 0


def test_without_a_server_every_request_is_broken() -> None:
    with scripted() as server:
        pass
    (summary,) = load(server.port, [Stream([request(b"a")], rate=100.0)], 0.2, core=CORE)
    assert summary.broken == summary.requests > 0
