"""JSON logs: a record becomes one line that says what the record said, whatever was put into it."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.telemetry.logs import JsonFormatter, configure_logging, log_level, request_id, set_log_level


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


def test_a_line_tells_the_time_level_logger_and_message_of_its_record() -> None:
    assert line(record("loaded %s in %d s", "digits", 3)) == {
        "time": "2026-03-01T12:30:45.678+00:00",
        "level": "warning",
        "logger": "service.repository.catalog",
        "message": "loaded digits in 3 s",
    }


def test_a_line_tells_the_same_however_late_it_is_formatted() -> None:
    entry = record()
    entry.args = ("digits",)
    assert line(entry) == line(entry)
    assert line(entry)["time"].startswith("2026-03-01T12:30:45")


def test_what_is_passed_as_extra_becomes_keys() -> None:
    told = line(record("x", seconds=0.25, model="digits", settings={"port": 8080}, none=None, sizes=[1, 2]))
    assert told["seconds"] == 0.25
    assert told["model"] == "digits"
    assert told["settings"] == {"port": 8080}
    assert told["none"] is None
    assert told["sizes"] == [1, 2]


def test_what_logging_itself_notes_does_not_clutter_the_line() -> None:
    assert set(line(record("x", taskName="Task-1", threadName="t", processName="p", lineno=7))) == {
        "time",
        "level",
        "logger",
        "message",
    }


@pytest.mark.parametrize("key", ["time", "level", "logger", "traceback"])
def test_an_extra_never_replaces_what_the_record_says(key: str) -> None:
    try:
        raise ValueError("too bad")
    except ValueError:
        entry = record("x", exc_info=sys.exc_info())
    plain = line(entry)
    vars(entry)[key] = "forged"
    assert line(entry) == plain


def test_the_id_of_the_request_is_told_while_it_is_served() -> None:
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
        told = line(record("it failed", exc_info=sys.exc_info()))
    assert told["message"] == "it failed"
    assert told["traceback"].startswith("Traceback (most recent call last):\n")
    assert told["traceback"].endswith("ValueError: too\nbad")


def test_an_exception_that_never_was_is_not_told() -> None:
    assert "traceback" not in line(record("x", exc_info=(None, None, None)))


def test_a_stack_is_told_where_it_was_asked_for() -> None:
    assert "somewhere" in line(record("x", stack_info="Stack (most recent call last):\n  somewhere"))["stack"]


@given(st.text(), st.text())
def test_any_text_comes_through_on_one_line(message: str, extra: str) -> None:
    told = line(record("%s", message, extra_text=extra))
    assert (told["message"], told["extra_text"]) == (message, extra)


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
def test_whatever_is_passed_as_extra_the_line_comes_out(value: object) -> None:
    told = line(record("x", value=value, model="digits"))
    assert told["message"] == "x"
    assert told["level"] == "warning"


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, put back as it was."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)
    logging.captureWarnings(False)
    logging.getLogger("uvicorn.access").disabled = False


def test_every_logger_of_the_process_writes_json_to_standard_output(
    root: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    logging.getLogger("uvicorn").addHandler(logging.StreamHandler(sys.stderr))
    configure_logging("warning")
    output = sys.stdout
    assert isinstance(output, io.StringIO)
    logging.getLogger("uvicorn.error").error("from uvicorn")
    logging.getLogger("uvicorn.access").error("never")
    logging.getLogger("service").warning("from us", extra={"model": "digits"})
    logging.getLogger("service").info("not now")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)  # catch_warnings had put Python's own back
        warnings.warn("from a library", stacklevel=1)
    told = [json.loads(text) for text in output.getvalue().splitlines()]
    assert [(entry["logger"], entry["level"]) for entry in told] == [
        ("uvicorn.error", "error"),
        ("service", "warning"),
        ("py.warnings", "warning"),
    ]
    assert told[1]["model"] == "digits"
    assert "from a library" in told[2]["message"]


def test_configuring_twice_does_not_write_twice(
    root: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    configure_logging("info")
    configure_logging("debug")
    assert len(root.handlers) == 1
    assert root.level == logging.DEBUG


def test_the_level_can_be_changed_while_the_service_runs(
    root: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    configure_logging("info")
    for level in ("debug", "error"):
        set_log_level(level)
        assert log_level() == level
    assert not logging.getLogger("service").isEnabledFor(logging.INFO)


def test_a_record_of_several_lines_writes_each_with_what_they_share() -> None:
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
