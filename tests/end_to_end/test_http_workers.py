"""`--http-workers`: the answers of one process from several, of which any may die."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.processes import Clients, children, client_ports, is_alive, kill
from tests.end_to_end.server import Server, serving
from tests.tiny_models import make_model, picture

pytestmark = pytest.mark.serial

ROUTE = "/v1/image-classification"
CLIENTS = 32
WORKERS = ("--http-workers", "2")
NAMES = {"engine", "http-0", "http-1"}


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    with serving(repository, *WORKERS, engine_restart_timeout_seconds="60") as server:
        yield server


def wait_until(condition: Any) -> None:
    for _ in range(6000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("never came true")


def one_more(url: str) -> httpx.Client:
    """A client with a connection of its own, which any worker may accept."""
    return httpx.Client(base_url=url, timeout=60, transport=httpx.HTTPTransport(verify=False, retries=3))


REQUESTS: dict[str, dict[str, Any]] = {
    "a picture": {"content": picture(1)},
    "three pictures": {"files": [("file", ("x.png", picture(seed))) for seed in range(3)]},
    "a parameter": {"content": picture(2), "params": {"top_k": 2}},
    "a bad item": {"files": [("file", ("x.png", raw)) for raw in (picture(1), b"junk")]},
    "no such model": {"content": picture(1), "params": {"model": "other"}},
    "no such parameter": {"content": picture(1), "params": {"top": 2}},
    "more items than the queue holds": {"files": [("file", ("x.png", picture(1)))] * 600},
    "too late": {"content": picture(1), "headers": {"X-Timeout-Ms": "0.001"}},
}


def test_answers_are_those_of_a_single_process(repository: Path, server: Server) -> None:
    def shape(response: httpx.Response) -> object:
        body = response.json()
        body.pop("id", None)
        if "error" in body:
            body["error"].pop("request_id")
        return response.status_code, body

    with serving(repository) as single, one_more(server.url) as ours, one_more(single.url) as theirs:
        for name, request in REQUESTS.items():
            assert shape(ours.post(ROUTE, **request)) == shape(theirs.post(ROUTE, **request)), name
        assert ours.get("/v1/models").json() == theirs.get("/v1/models").json()


def test_connections_are_shared_evenly(server: Server) -> None:
    with ExitStack() as inside:
        for _ in range(8):
            client = inside.enter_context(one_more(server.url))
            client.get("/readyz")
        pids = children(server.process.pid)
        counts = [len(client_ports(pids[name])) for name in ("http-0", "http-1")]
        assert sum(counts) >= 8 and abs(counts[0] - counts[1]) <= 2, counts


async def test_counters_of_all_processes_add_up_whoever_is_asked(server: Server) -> None:
    before = metrics(server.url)
    answered = counter(before, "kotae_items_total") + 200
    async with httpx.AsyncClient(base_url=server.url, timeout=60, verify=False) as client:
        posts = (client.post(ROUTE, content=picture(seed)) for seed in range(200))
        assert {response.status_code for response in await asyncio.gather(*posts)} == {200}
    wait_until(lambda: counter(metrics(server.url), "kotae_items_total") == answered)
    for _ in range(8):  # each on a new connection: both workers are asked
        text = metrics(server.url)
        assert counter(text, "kotae_items_total") == answered  # the workers count these,
        batched = counter(text, "kotae_batch_items_sum") - counter(before, "kotae_batch_items_sum")
        assert batched == 200  # and the engine these
        assert counter(text, "kotae_model_ready") == 1
        assert counter(text, "process_resident_memory_bytes") > 100 * 2**20  # three processes
        assert counter(text, "process_cpu_seconds_total") > counter(before, "process_cpu_seconds_total") / 2
        assert 'pid="' not in text
        families = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
        assert len(families) == len(set(families))


def counter(text: str, name: str, **labels: str) -> float:
    """Add up the samples of a metric that have these labels."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    lines = [line for line in text.splitlines() if re.match(rf"{name}[{{ ]", line)]
    return sum(float(line.split()[-1]) for line in lines if all(label in line for label in wanted))


def test_an_answer_that_the_engine_keeps_is_given_to_every_worker(tmp_path: Path) -> None:
    make_model(tmp_path, default=True, answer_cache_bytes=100_000)
    with serving(tmp_path, *WORKERS) as server, one_more(server.url) as one, one_more(server.url) as other:
        first, *again = [client.post(ROUTE, content=picture(1)).json() for client in (one, other, one, other)]
        assert all(answer["results"] == first["results"] for answer in again)
        text = metrics(server.url)
        assert counter(text, "kotae_batch_items_sum") == 1
        assert counter(text, "kotae_answer_cache_hits_total") == 3
        assert counter(text, "kotae_answer_cache_misses_total") == 1
        assert counter(text, "kotae_answer_cache_bytes") > 0


def test_a_log_level_reaches_every_process(server: Server) -> None:
    with one_more(server.url) as client:
        assert client.put("/admin/log-level", json={"level": "debug"}).status_code == 200
        try:
            wait_until(lambda: all(levels(server.url) == "debug" for _ in range(6)))
        finally:
            client.put("/admin/log-level", json={"level": "info"})
        wait_until(lambda: all(levels(server.url) == "info" for _ in range(6)))


def levels(url: str) -> str:
    with one_more(url) as client:
        level: str = client.get("/admin/log-level").json()["level"]
        return level


def test_every_line_of_the_log_says_which_process_wrote_it(server: Server) -> None:
    names = {line.get("process") for line in server.lines}
    assert names == {None, *NAMES}  # None is the supervisor


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
async def test_killed_workers_take_only_their_own_requests_with_them(server: Server, kills: int) -> None:
    clients = load(server)
    victims: set[int] = set()
    for turn in range(kills):
        await clients.more(200)
        before = metrics(server.url)
        name = f"http-{turn % 2}"
        victims |= kill(children(server.process.pid)[name])
        after = await asyncio.to_thread(until_restarted, server, "http", before)
        for counted in ("kotae_requests_total", "kotae_items_total", "process_cpu_seconds_total"):
            assert counter(after, counted) >= counter(before, counted), f"{counted} went back"
    await clients.more(200)
    await clients.stop()
    assert set(clients.statuses) == {200}, clients.refusals
    assert not clients.wrong
    assert set(clients.lost_ports) <= victims


@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.slow)])
async def test_a_killed_engine_fails_only_what_was_in_flight(server: Server, kills: int) -> None:
    clients = load(server)
    for turn in range(kills):
        await clients.more(200)
        before = metrics(server.url)
        kill(children(server.process.pid)["engine"])
        await asyncio.to_thread(until_restarted, server, "engine", before)
        await asyncio.to_thread(server.wait_until_ready)
        await clients.more(200)
        assert clients.statuses[503] <= (turn + 1) * CLIENTS, clients.refusals[-1]
    await clients.stop()
    assert set(clients.statuses) <= {200, 503}, clients.refusals
    assert not clients.lost_ports and not clients.wrong
    for head, answer in clients.refusals:
        assert "retry-after: 1" in head
        assert answer["error"]["code"] == "not_ready"
    assert counter(metrics(server.url), "kotae_inflight_requests") == 1  # the one that asks


def load(server: Server) -> Clients:
    raw = picture(1)
    with one_more(server.url) as client:
        expected = client.post(ROUTE, content=raw).json()["results"]
    return Clients(server.url, ROUTE, raw, expected, CLIENTS)


def metrics(url: str) -> str:
    with one_more(url) as client:
        return client.get("/metrics").text


def until_restarted(server: Server, process: str, before: str) -> str:
    """Wait until one more process has been started in a dead one's place; give the metrics of then."""

    def restarts(text: str) -> float:
        lines = [line for line in text.splitlines() if line.startswith("kotae_process_restarts_total{")]
        return sum(float(line.split()[-1]) for line in lines if f'"{process}"' in line)

    for _ in range(600):
        if restarts(text := metrics(server.url)) > restarts(before):
            return text
        threading.Event().wait(0.05)
    raise AssertionError(f"no {process} was started again")


def test_probes_tell_of_an_engine_that_is_gone(server: Server) -> None:
    with one_more(server.url) as client:
        kill(children(server.process.pid)["engine"])
        wait_until(lambda: client.get("/readyz").status_code == 503)
        text, (entry,) = client.get("/metrics").text, client.get("/v1/models").json()["data"]
        assert not entry["ready"] and "restarted" in entry["reason"]
        assert counter(text, "kotae_model_ready") == 0
        assert client.get("/healthz").status_code == 200  # the supervisor sees to it
        server.wait_until_ready()
        assert client.get("/v1/models").json()["data"][0]["ready"]


def test_processes_that_hang_are_killed_and_started_again(repository: Path) -> None:
    limits = {"heartbeat_seconds": "0.1", "event_loop_lag_limit_seconds": "2"}
    with serving(repository, *WORKERS, **limits) as server:
        before = children(server.process.pid)
        server.wait_for_line("every process is ready")  # only then are they watched
        for name in ("engine", "http-0"):
            os.kill(before[name], signal.SIGSTOP)
        wait_until(lambda: not is_alive(before["engine"]) and not is_alive(before["http-0"]))
        server.wait_until_ready()
        server.process.send_signal(signal.SIGINT)
        assert server.exit_code() == 0


async def test_sigterm_under_load_loses_nothing_and_leaves_nobody(repository: Path) -> None:
    with serving(repository, *WORKERS, drain_grace_seconds="2") as server:
        pids = children(server.process.pid)
        assert pids.keys() == NAMES
        clients = load(server)
        await clients.more(200)
        server.terminate()
        await clients.leave()
        with one_more(server.url) as late:  # in the grace
            assert late.get("/readyz").status_code == 503
            assert late.post(ROUTE, content=picture(1)).status_code == 200
        assert await asyncio.to_thread(server.exit_code) == 0
        assert set(clients.statuses) == {200}
        assert not clients.lost_ports
        assert not any(map(is_alive, pids.values()))
        assert not [line for line in server.lines if line["level"] in ("error", "critical")]


def test_nobody_survives_the_supervisor(repository: Path) -> None:
    with serving(repository, *WORKERS) as server:
        pids = children(server.process.pid)
        server.process.kill()
        server.process.wait(60)
        wait_until(lambda: not any(map(is_alive, pids.values())))
        with pytest.raises(httpx.ConnectError), one_more(server.url) as client:
            client.get("/readyz")


KEYS = {"auth": "required", "keys_file": "/nowhere/keys.yaml"}


@pytest.mark.parametrize(
    ("models", "settings", "message"),
    [("nowhere", {}, "the models folder"), (".", KEYS, "keys")],
    ids=["no models", "no keys"],
)
def test_a_start_that_fails_ends_in_one_line(
    repository: Path, models: str, settings: dict[str, str], message: str
) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "service",
            "serve",
            "--port",
            "0",
            "--models",
            str(repository / models),
            *WORKERS,
        ],
        env=os.environ | {f"KOTAE_{name.upper()}": value for name, value in settings.items()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("kotae: ") and message in line
