"""JSON logs: one object per line on standard output, one line per request. No payloads, no secrets.

Lines are formatted where they are logged and written by a thread, so that a reader of standard output that
does not read cannot block the event loop. When the queue of lines is full, new lines are dropped and counted.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import time
from contextvars import ContextVar
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener

import orjson

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

_MAX_QUEUED_RECORDS = 10_000
_WRITE_INTERVAL_SECONDS = 0.05  # fewer and larger writes, fewer changes between threads
_CLOSE_TIMEOUT_SECONDS = 2.0  # at exit, for a reader that does not read

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JsonFormatter(logging.Formatter):
    """Formats a record as a JSON object; the keys of `extra` become keys of the object.

    Args:
        process: Name of this process, added to every line unless empty.
    """

    def __init__(self, process: str = "") -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line.

        A record with `extra={"lines": [...]}` gives one line per dictionary of that list; the other keys are
        the same in all of them.
        """
        line = self._line(record)
        lines = line.pop("lines", None)
        if not isinstance(lines, list):
            return _dump(line)
        return "\n".join(_dump({**line, **own}) for own in lines)

    def _line(self, record: logging.LogRecord) -> dict[str, object]:
        line: dict[str, object] = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        line |= {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._process:
            line["process"] = self._process
        if identity := request_id.get():
            line["request_id"] = identity
        if record.exc_info and record.exc_info[1] is not None:
            line["traceback"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return line


def _dump(line: dict[str, object]) -> str:
    try:
        return orjson.dumps(line, default=_text, option=_OPTIONS).decode()
    except TypeError:  # huge integers, lone surrogates, circular references: the line must not be lost
        safe = {key: _text(value).encode("utf-8", "backslashreplace").decode() for key, value in line.items()}
        return orjson.dumps(safe).decode()


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # an object's own code may raise anything; the line must not be lost
        return f"<{type(value).__name__}>"


class QueuedHandler(QueueHandler):
    """Queues formatted lines for a thread that writes them to standard output; drops them when it is full.

    `logging.shutdown`, which Python calls at exit, closes it and so writes what is queued.
    """

    def __init__(self, formatter: logging.Formatter) -> None:
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        super().__init__(self._lines)
        self.setFormatter(formatter)
        self._dropped = 0
        self._writer = _LineWriter(self._lines)
        self._writer.start()

    def prepare(self, record: logging.LogRecord) -> bytes:
        """Return the record's lines as UTF-8."""
        return f"{self.format(record)}\n".encode()

    def enqueue(self, record: bytes) -> None:  # type: ignore[override] # what `prepare` returns
        """Queue lines, or count them as dropped. Called with the handler's lock held."""
        if self._lines.qsize() < _MAX_QUEUED_RECORDS:
            self._lines.put(record)
        else:
            self._dropped += record.count(b"\n")

    def take_dropped(self) -> int:
        """Return how many lines were dropped since the last call."""
        with self.lock:  # type: ignore[union-attr] # logging makes it in the constructor
            dropped, self._dropped = self._dropped, 0
        return dropped

    def close(self) -> None:
        """Write what is queued, within a time limit, and end the thread."""
        self._writer.stop()
        super().close()


class _LineWriter(QueueListener):
    """Writes to file descriptor 1, without Python's buffer, whose lock would be held while a write blocks."""

    def __init__(self, lines: queue.SimpleQueue[bytes | None]) -> None:
        super().__init__(lines)
        self._lines = lines
        self._is_stopping = False

    def dequeue(self, block: bool) -> bytes | None:  # type: ignore[override]
        """Wait for a line, and return all that are queued; None after the last one."""
        if self._is_stopping:
            return None
        lines = []
        line = self._lines.get(block)
        while line is not None:
            lines.append(line)
            try:
                line = self._lines.get(block=False)
            except queue.Empty:
                return b"".join(lines)
        self._is_stopping = True
        return b"".join(lines)

    def handle(self, record: bytes) -> None:  # type: ignore[override] # what `dequeue` returns
        """Write lines."""
        try:
            while record:
                record = record[os.write(1, record) :]
        except OSError as error:  # nobody reads any more: a closed pipe, a full disk
            sys.stderr.write(f"kotae: cannot write the log: {error}\n")
        time.sleep(_WRITE_INTERVAL_SECONDS)

    def stop(self) -> None:
        """End the thread after all lines are written, or after a time limit."""
        if self._thread is not None:
            self.enqueue_sentinel()
            self._thread.join(_CLOSE_TIMEOUT_SECONDS)
            self._thread = None


def take_dropped_lines() -> int:
    """Return how many log lines of this process were dropped since the last call."""
    handlers = logging.getLogger().handlers
    return sum(handler.take_dropped() for handler in handlers if isinstance(handler, QueuedHandler))


def log_level() -> str:
    """Return the lowest level that is logged."""
    return logging.getLevelName(logging.getLogger().level).lower()


def set_log_level(level: str) -> None:
    """Change the lowest level that is logged."""
    logging.getLogger().setLevel(level.upper())


def configure_logging(level: str, process: str = "") -> None:
    """Write every log record of the process to standard output as JSON.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        process: Name of this process; empty where there is only one.
    """
    # Facts that no line shows are not looked up: "Optimization" in the documentation of logging.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    for handler in root.handlers:
        if isinstance(handler, QueuedHandler):
            handler.close()
    root.handlers[:] = [QueuedHandler(JsonFormatter(process))]
    set_log_level(level)
    logging.captureWarnings(True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("uvicorn.access").disabled = True  # our own request line replaces it
