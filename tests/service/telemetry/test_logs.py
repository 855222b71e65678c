"""JSON logs: every record becomes one line, whatever its values are; lines are written by a thread."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.telemetry.logs import (
    JsonFormatter,
    QueuedHandler,
    configure_logging,
    log_level,
    request_id,
    set_log_level,
)


def record(message: str = "loaded %s", *arguments: object, **fields: Any) -> logging.LogRecord:
    """A record of the first of March 2026, 12:30:45.678 UTC."""
    given: dict[str, Any] = {
        "name": "service.repository.catalog",
        "levelname": "WARNING",
        "levelno": logging.WARNING,
        "msg": message,
        "args": arguments,
        "created": 1772368245.678,
        **fields,
    }
    return logging.makeLogRecord(given)


def line(entry: logging.LogRecord) -> dict[str, Any]:
    text = JsonFormatter().format(entry)
    assert "\n" not in text
    parsed: dict[str, Any] = json.loads(text, parse_constant=_refuse)
    return parsed


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def test_a_line_has_the_time_level_logger_and_message_of_its_record() -> None:
    assert line(record("loaded %s in %d s", "digits", 3)) == {
        "time": "2026-03-01T12:30:45.678+00:00",
        "level": "warning",
        "logger": "service.repository.catalog",
        "message": "loaded digits in 3 s",
    }


def test_a_line_has_the_time_of_its_record_not_of_formatting() -> None:
    entry = record()
    entry.args = ("digits",)
    assert line(entry) == line(entry)
    assert line(entry)["time"].startswith("2026-03-01T12:30:45")


def test_extra_values_become_keys() -> None:
    parsed = line(record("x", seconds=0.25, model="digits", settings={"port": 8080}, none=None, sizes=[1, 2]))
    assert parsed["seconds"] == 0.25
    assert parsed["model"] == "digits"
    assert parsed["settings"] == {"port": 8080}
    assert parsed["none"] is None
    assert parsed["sizes"] == [1, 2]


def test_the_standard_attributes_of_records_are_not_in_the_line() -> None:
    assert set(line(record("x", taskName="Task-1", threadName="t", processName="p", lineno=7))) == {
        "time",
        "level",
        "logger",
        "message",
    }


@pytest.mark.parametrize("key", ["time", "level", "logger", "traceback"])
def test_an_extra_value_never_replaces_a_value_of_the_record(key: str) -> None:
    try:
        raise ValueError("too bad")
    except ValueError:
        entry = record("x", exc_info=sys.exc_info())
    plain = line(entry)
    vars(entry)[key] = "forged"
    assert line(entry) == plain


def test_a_line_has_the_id_of_the_request_that_is_being_served() -> None:
    token = request_id.set("abc-123")
    try:
        assert line(record("x"))["request_id"] == "abc-123"
    finally:
        request_id.reset(token)
    assert "request_id" not in line(record("x"))


def test_a_traceback_is_one_key_of_the_same_line() -> None:
    try:
        raise ValueError("too\nbad")
    except ValueError:
        parsed = line(record("it failed", exc_info=sys.exc_info()))
    assert parsed["message"] == "it failed"
    assert parsed["traceback"].startswith("Traceback (most recent call last):\n")
    assert parsed["traceback"].endswith("ValueError: too\nbad")


def test_an_empty_exception_is_left_out() -> None:
    assert "traceback" not in line(record("x", exc_info=(None, None, None)))


def test_a_stack_is_included_on_request() -> None:
    assert "somewhere" in line(record("x", stack_info="Stack (most recent call last):\n  somewhere"))["stack"]


@given(st.text(), st.text())
def test_any_text_is_preserved_on_one_line(message: str, extra: str) -> None:
    parsed = line(record("%s", message, extra_text=extra))
    assert (parsed["message"], parsed["extra_text"]) == (message, extra)


class Mute:
    """An object that cannot be written."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


def _circle() -> list[object]:
    circle: list[object] = []
    circle.append(circle)
    return circle


def _depth() -> list[object]:
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    return deep


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1, 2},
        b"\xff",
        Path("models"),
        ValueError("x"),
        np.float32(1.5),
        np.arange(3),
        np.array(["x"], dtype=object),
        {1: "one", (2, 3): "pair"},
        2**100,
        float("nan"),
        [2**100, float("inf")],
        "\ud800",
        {"\udcff": "\udcff"},
        Mute(),
        [Mute()],
        _circle(),
        _depth(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_extra_value_gives_a_line(value: object) -> None:
    parsed = line(record("x", value=value, model="digits"))
    assert parsed["message"] == "x"
    assert parsed["level"] == "warning"


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, restored afterwards."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    for handler in logger.handlers:
        if isinstance(handler, QueuedHandler):
            handler.close()
    logger.handlers[:] = handlers
    logger.setLevel(level)
    logging.captureWarnings(False)
    logging.getLogger("uvicorn.access").disabled = False


def test_every_logger_of_the_process_writes_json_to_standard_output(
    root: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    logging.getLogger("uvicorn").addHandler(logging.StreamHandler(sys.stderr))
    configure_logging("warning")
    logging.getLogger("uvicorn.error").error("from uvicorn")
    logging.getLogger("uvicorn.access").error("never")
    logging.getLogger("service").warning("from us", extra={"model": "digits"})
    logging.getLogger("service").info("not now")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)  # catch_warnings had restored Python's own
        warnings.warn("from a library", stacklevel=1)
    root.handlers[0].close()  # writes what is queued
    lines = [json.loads(text) for text in capfd.readouterr().out.splitlines()]
    assert [(entry["logger"], entry["level"]) for entry in lines] == [
        ("uvicorn.error", "error"),
        ("service", "warning"),
        ("py.warnings", "warning"),
    ]
    assert lines[1]["model"] == "digits"
    assert "from a library" in lines[2]["message"]


def test_configuring_twice_does_not_write_twice(
    root: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    configure_logging("info")
    logging.getLogger("service").info("first")
    configure_logging("debug")
    logging.getLogger("service").info("second")
    assert len(root.handlers) == 1
    assert root.level == logging.DEBUG
    root.handlers[0].close()
    lines = [json.loads(text)["message"] for text in capfd.readouterr().out.splitlines()]
    assert lines == ["first", "second"]


def test_the_level_can_be_changed_while_the_service_runs(root: logging.Logger) -> None:
    configure_logging("info")
    for level in ("debug", "error"):
        set_log_level(level)
        assert log_level() == level
    assert not logging.getLogger("service").isEnabledFor(logging.INFO)


def test_the_request_id_is_that_of_the_moment_of_logging(
    root: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    configure_logging("info")
    token = request_id.set("abc-123")
    logging.getLogger("service").info("served")
    request_id.reset(token)
    root.handlers[0].close()
    assert json.loads(capfd.readouterr().out)["request_id"] == "abc-123"


FULL_QUEUE = """
import logging, sys
from service.telemetry import logs
logs._MAX_QUEUED_RECORDS = 100
logs.configure_logging("info")
for number in range(5000):
    logging.getLogger("service").info("line", extra={"number": number, "padding": "x" * 100})
    if number == 2500:
        first = logs.take_dropped_lines()
sys.stderr.write(f"{first} {logs.take_dropped_lines()} {logs.take_dropped_lines()}")
"""


def test_a_full_queue_drops_and_counts_lines_and_the_process_ends() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FULL_QUEUE], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            assert process.wait(30) == 0  # nobody has read its output
        finally:
            process.kill()
        dropped = [int(number) for number in process.stderr.read().split()]
    assert dropped[0] > 0 and dropped[1] > 0 and dropped[2] == 0


@pytest.mark.parametrize("end", ["pass", "sys.exit(3)", "raise ValueError('x')"])
def test_lines_logged_before_the_end_are_written(end: str) -> None:
    code = "import logging, sys; from service.telemetry.logs import configure_logging\n"
    code += "configure_logging('info'); [logging.info('line') for _ in range(1000)]\n"
    result = subprocess.run([sys.executable, "-c", code + end], capture_output=True, check=False, timeout=30)
    assert result.stdout.count(b"\n") == 1000


SERVE = """
from service.telemetry import logs
logs._MAX_QUEUED_RECORDS = 10
from service.__main__ import main
main()
"""


def test_a_service_whose_output_nobody_reads_answers_counts_and_ends(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    command = [sys.executable, "-c", SERVE, "serve", "--models", str(tmp_path), "--port", port]
    environment = {**os.environ, "KOTAE_DRAIN_GRACE_SECONDS": "0"}
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20)
    with client, subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        try:
            fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
            assert any(b"listening on" in line for line in process.stdout)
            for _ in range(200):
                assert client.get("/unknown").status_code == 404
            deadline = time.monotonic() + 20
            while dropped_lines(client) == 0:  # counted at the next heartbeat
                assert time.monotonic() < deadline
                time.sleep(0.1)
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()


def dropped_lines(client: httpx.Client) -> float:
    """Read the counter of dropped log lines from a service."""
    text = client.get("/metrics").text
    (dropped,) = re.findall(r"(?m)^kotae_log_lines_dropped_total (\S+)$", text)
    return float(dropped)


def test_a_record_of_several_lines_writes_each_with_the_shared_values() -> None:
    text = JsonFormatter().format(record("request", lines=[{"status": 429}, {"status": 503, "key": "app"}]))
    first, second = (json.loads(part) for part in text.split("\n"))
    shared = {
        "time": "2026-03-01T12:30:45.678+00:00",
        "level": "warning",
        "logger": "service.repository.catalog",
        "message": "request",
    }
    assert first == {**shared, "status": 429}
    assert second == {**shared, "status": 503, "key": "app"}
