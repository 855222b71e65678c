"""Two servers behind a proxy that asks `/readyz`, replaced in turn under load: no request fails."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.server import Server
from tests.tiny_models import picture

pytestmark = pytest.mark.serial

ROUTE = "/v1/image-classification"
CLIENTS = 8
PROXY = """
defaults
  mode http
  timeout connect 2s
  timeout client 30s
  timeout server 30s
  timeout check 5s
frontend front
  bind 127.0.0.1:{front}
  stats enable
  stats uri /proxy
  default_backend servers
backend servers
  option httpchk GET /readyz
  http-check expect status 200
  default-server check inter 100ms fall 1 rise 1
  server first 127.0.0.1:{first}
  server second 127.0.0.1:{second}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def proxy(folder: Path, ports: list[int]) -> Iterator[str]:
    front = free_port()
    config = folder / "haproxy.cfg"
    config.write_text(PROXY.format(front=front, first=ports[0], second=ports[1]))
    process = subprocess.Popen(["haproxy", "-q", "-db", "-f", str(config)])
    try:
        with httpx.Client(transport=httpx.HTTPTransport(retries=5)) as client:
            client.get(f"http://127.0.0.1:{front}/healthz")
        yield f"http://127.0.0.1:{front}"
    finally:
        process.terminate()
        process.wait(20)


def start(repository: Path, port: int) -> Server:
    server = Server(repository, "--port", str(port), drain_grace_seconds="1")
    server.wait_until_ready()
    return server


@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.slow)])
async def test_replacing_servers_in_turn_under_load_fails_no_request(
    repository: Path, tmp_path: Path, rounds: int
) -> None:
    if shutil.which("haproxy") is None:
        assert "CI" not in os.environ, "haproxy is missing"
        pytest.skip("haproxy is missing")
    ports = [free_port(), free_port()]
    servers = [start(repository, port) for port in ports]
    statuses: Counter[int] = Counter()
    over = asyncio.Event()
    try:
        with proxy(tmp_path, ports) as url:
            async with httpx.AsyncClient(base_url=url, timeout=30) as client:

                async def both_are_up() -> None:
                    async with asyncio.timeout(30):
                        while (await client.get("/proxy;csv")).text.count(",UP,") < 3:  # and the backend
                            await asyncio.sleep(0.05)

                async def visit() -> None:
                    while not over.is_set():
                        response = await client.post(ROUTE, content=picture(1))
                        statuses[response.status_code] += 1
                        assert response.status_code == 200, response.text

                await both_are_up()
                visits = [asyncio.create_task(visit()) for _ in range(CLIENTS)]
                for turn in range(2 * rounds):
                    which = turn % 2
                    before = statuses.total()
                    servers[which].terminate()
                    assert await asyncio.to_thread(servers[which].exit_code) == 0
                    servers[which].close()
                    servers[which] = await asyncio.to_thread(start, repository, ports[which])
                    await both_are_up()
                    assert statuses.total() > before
                over.set()
                await asyncio.gather(*visits)
        assert set(statuses) == {200}, statuses
        assert statuses[200] > 50 * rounds
    finally:
        for server in servers:
            server.process.kill()
            server.close()
