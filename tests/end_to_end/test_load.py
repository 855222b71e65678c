"""The real server under load: answers stay right, nothing is lost when it ends."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from service.tasks.image.preprocessing import decode_image
from tests.end_to_end.server import Server, serving
from tests.tiny_models import LABELS, SPEC, picture, probabilities

pytestmark = pytest.mark.serial

ROUTE = "/v1/image-classification"
CLIENTS = 64


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    with serving(repository) as server:
        yield server


def alone(raw: bytes) -> dict[str, float]:
    row = probabilities(decode_image(raw, SPEC, max_pixels=10**9)[np.newaxis])[0]
    return dict(zip(LABELS, map(float, row), strict=True))


def check(response: httpx.Response, raw: bytes) -> None:
    assert response.status_code == 200, response.text
    (result,) = response.json()["results"]
    assert {p["label"]: p["score"] for p in result["predictions"]} == pytest.approx(alone(raw), abs=1e-5)


async def test_every_answer_under_load_equals_the_answer_alone(server: Server) -> None:
    pictures = [picture(seed, size=8 + seed % 40) for seed in range(2000)]
    limits = httpx.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=60) as client:

        async def visit(number: int) -> None:
            for raw in pictures[number::CLIENTS]:
                check(await client.post(ROUTE, content=raw), raw)

        await asyncio.gather(*(visit(number) for number in range(CLIENTS)))
        metrics = (await client.get("/metrics")).text
    counts = {
        bound: float(count)
        for bound, count in re.findall(r'kotae_batch_items_bucket\{le="([^"]+)".*\} (\S+)', metrics)
    }
    assert counts["+Inf"] > counts["1.0"], "no batch was larger than 1"
    ok = re.search(rf'kotae_requests_total\{{.*route="{ROUTE}",status="200"\}} (\S+)', metrics)
    assert ok is not None and float(ok[1]) == 2000


async def test_a_neighbour_is_answered_while_a_request_with_a_bad_item_is_refused(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        raws = [*(picture(seed) for seed in range(9)), b"junk"]
        bad = client.post(ROUTE, files=[("file", ("x.png", raw)) for raw in raws])
        neighbours = [client.post(ROUTE, content=picture(seed)) for seed in range(20)]
        refused, *answered = await asyncio.gather(bad, *neighbours)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "inputs[9]"
    for seed, response in enumerate(answered):
        check(response, picture(seed))


@pytest.mark.parametrize("grace", ["0", "1"])
async def test_sigterm_under_load_loses_nothing_and_ends_with_0(repository: Path, grace: str) -> None:
    with serving(repository, drain_grace_seconds=grace) as server:
        outcomes: Counter[str] = Counter()
        draining = asyncio.Event()
        closed = asyncio.Event()
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:

            async def visit(number: int) -> None:
                raw = picture(number)
                while not closed.is_set():
                    try:
                        response = await client.post(ROUTE, content=raw)
                    except httpx.ConnectError:
                        closed.set()  # the listener is closed: nothing was accepted
                        return
                    check(response, raw)
                    outcomes["answered"] += 1
                    if draining.is_set():
                        outcomes["answered while draining"] += 1
                        assert response.headers["connection"] == "close"

            visits = [asyncio.create_task(visit(number)) for number in range(CLIENTS)]
            while outcomes["answered"] < 200:
                await asyncio.sleep(0.01)
            server.terminate()
            await asyncio.to_thread(server.wait_for_line, "draining")
            if grace != "0":
                async with httpx.AsyncClient(base_url=server.url) as probe:
                    ready, live = await asyncio.gather(probe.get("/readyz"), probe.get("/healthz"))
                    assert (ready.status_code, live.status_code) == (503, 200)
                    new = await probe.post(ROUTE, content=picture(1))
                    check(new, picture(1))
                outcomes["answered"] = 0
                draining.set()
            await asyncio.gather(*visits)
        assert await asyncio.to_thread(server.exit_code) == 0
        if grace != "0":
            assert outcomes["answered while draining"] > 50
        assert not [line for line in server.lines if line["level"] in ("error", "critical")]


async def test_a_client_that_hangs_up_is_counted_as_499_and_hurts_nobody(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    for _ in range(5):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"POST {ROUTE} HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\nabc".encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        check(await client.post(ROUTE, content=picture(1)), picture(1))
        async with asyncio.timeout(20):
            while 'status="499"} 5.0' not in (await client.get("/metrics")).text:
                await asyncio.sleep(0.02)


async def test_a_body_that_comes_too_slowly_answers_408(repository: Path) -> None:
    with serving(repository, body_timeout_seconds="0.2") as server:
        host, port = server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"POST {ROUTE} HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\nabc".encode())
        await writer.drain()
        answer = await asyncio.wait_for(reader.read(), 20)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b'"request_timeout"' in answer
        writer.close()


def test_sigint_ends_at_once_with_0(repository: Path) -> None:
    import signal

    with serving(repository, drain_grace_seconds="60") as server:
        server.process.send_signal(signal.SIGINT)
        assert server.exit_code() == 0


async def test_a_deadline_begins_when_the_body_has_arrived(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    raw = picture(1)
    head = f"POST {ROUTE} HTTP/1.1\r\nHost: x\r\nX-Timeout-Ms: 250\r\nContent-Length: {len(raw)}\r\n\r\n"
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head.encode() + raw[:20])
    await writer.drain()
    await asyncio.sleep(0.4)  # a slow upload, longer than the deadline
    writer.write(raw[20:])
    await writer.drain()
    assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 200")
    writer.close()
