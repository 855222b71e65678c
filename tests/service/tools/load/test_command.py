"""`kotae bench` on the command line."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from service.__main__ import main
from tests.service.tools.load.scripted_server import answer, scripted

Bench = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    """Run `kotae bench` in this process: exit code, output, errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kotae", "bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    monkeypatch.setenv("COLUMNS", "200")
    return run


def test_a_closed_loop_prints_tables(bench: Bench) -> None:
    with scripted() as server:
        url = f"http://127.0.0.1:{server.port}"
        code, output, _ = bench(url, "--task", "text-classification", "--text", "hello", "--seconds", 0.2)
        assert code == 0
        assert server.connections == 8 + 1  # and the one that asked first
        first = server.requests[0]
    assert first.startswith(b"POST /v1/text-classification HTTP/1.1\r\n")
    assert b"Content-Type: text/plain" in first
    assert first.endswith(b"hello")
    assert "in deadline/s" in output
    assert "p99.9" in output


def test_a_text_to_embed_is_sent_as_json(bench: Bench) -> None:
    with scripted() as server:
        options = ["--task", "text-embedding", "--text", "hello", "--model", "m", "--seconds", 0.05]
        assert bench(f"http://127.0.0.1:{server.port}", *options)[0] == 0
        first = server.requests[0]
    assert first.startswith(b"POST /v1/embeddings?model=m HTTP/1.1\r\n")
    assert json.loads(first.rpartition(b"\r\n\r\n")[2]) == {"input": "hello"}


def test_an_open_loop_prints_json_and_sends_deadline_priority_and_key(bench: Bench, tmp_path: Path) -> None:
    picture = tmp_path / "x.png"
    picture.write_bytes(b"picture")
    options = ["--rate", 100, "--seconds", 0.2, "--deadline-ms", 5000, "--priority", 2, "--key", "secret"]
    with scripted() as server:
        url = f"http://127.0.0.1:{server.port}/v1/image-classification"
        code, output, _ = bench(url, "--file", picture, "--model", "m", *options, "--json")
        first = server.requests[0].decode()
    assert code == 0
    summary = json.loads(output)
    assert summary["statuses"] == {"200": summary["requests"]}
    assert first.startswith("POST /v1/image-classification?model=m HTTP/1.1\r\n")
    for header in ("image/png", "X-Timeout-Ms: 5000", "X-Priority: 2", "Authorization: Bearer secret"):
        assert header in first


def test_refusals_and_broken_connections_are_printed(bench: Bench) -> None:
    async def misbehaves(number: int, writer: asyncio.StreamWriter) -> None:
        if number % 3 == 2:
            writer.close()
        writer.write(answer(429 if number % 3 else 200))

    with scripted(misbehaves) as server:
        url = f"http://127.0.0.1:{server.port}/x"
        code, output, _ = bench(url, "--text", "a", "--seconds", 0.2, "--clients", 2)
    assert code == 0
    assert "429" in output
    assert "refusals" in output
    assert "broken" in output


def test_a_generator_that_is_too_slow_is_reported(bench: Bench) -> None:
    with scripted() as server:
        url = f"http://127.0.0.1:{server.port}/x"
        _, output, _ = bench(url, "--text", "a", "--seconds", 0.05, "--rate", 50_000)
    assert "requests were sent up to" in output


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--text", "a"], "name a route"),
        (["--task", "x"], "name what to send"),
        (["--task", "x", "--route", "/y", "--text", "a"], "not both"),
        (["--task", "x", "--file", "/nowhere"], "cannot be read"),
        (["--task", "x", "--text", "a", "--clients", 1, "--rate", 1], "either a number of clients or a rate"),
        (["--task", "x", "--text", "a", "--clients", 10**6], "clients must lie between"),
    ],
)
def test_wrong_options_are_an_error_of_one_line(bench: Bench, arguments: list[object], problem: str) -> None:
    code, _, errors = bench("http://127.0.0.1:1", *arguments)
    assert code == 2
    assert problem in errors


def test_a_wrong_request_ends_the_command_after_one_answer(bench: Bench) -> None:
    async def refuses(_: int, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(415, b"no picture"))

    with scripted(refuses) as server:
        code, _, errors = bench(f"http://127.0.0.1:{server.port}/x", "--text", "a")
        assert len(server.requests) == 1
    assert code == 2
    assert "answers 415 to such a request: no picture" in errors
